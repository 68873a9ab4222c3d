"""Edit on redrive, and the private topics that carry what only one group gets (sql/0043_edit.sql)."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0042_dead")]

    operations = [migrations.RunSQL((SQL / "0043_edit.sql").read_text(), migrations.RunSQL.noop)]
