"""Causes of dead letters whose reasons repeat, in a tenth of the time (sql/0022_causes.sql)."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0021_ceilings")]

    operations = [migrations.RunSQL((SQL / "0022_causes.sql").read_text(), migrations.RunSQL.noop)]
