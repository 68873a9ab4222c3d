"""Many delayed messages at once, and how many are due in each hour (sql/0016_delayed.sql)."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0015_edit")]

    operations = [migrations.RunSQL((SQL / "0016_delayed.sql").read_text(), migrations.RunSQL.noop)]
