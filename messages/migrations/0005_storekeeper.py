"""The storekeeper's heartbeat (sql/0005_storekeeper.sql)."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0004_counts")]

    operations = [migrations.RunSQL((SQL / "0005_storekeeper.sql").read_text(), "DROP FUNCTION mq_beat; DROP TABLE mq_storekeeper")]
