"""Ceilings of groups and the backlog of topics (sql/0013_ceilings.sql)."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0012_positions")]

    operations = [migrations.RunSQL((SQL / "0013_ceilings.sql").read_text())]
