"""Edit on redrive, and the private topics that carry what only one group gets (sql/0015_edit.sql)."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0014_dead")]

    operations = [migrations.RunSQL((SQL / "0015_edit.sql").read_text(), migrations.RunSQL.noop)]
