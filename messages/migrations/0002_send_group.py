"""Group commit of single sends (sql/0002_send_group.sql)."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0001_store")]

    operations = [migrations.RunSQL((SQL / "0002_send_group.sql").read_text(), "DROP FUNCTION mq_send_group")]
