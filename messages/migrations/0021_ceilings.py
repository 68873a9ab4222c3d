"""Ceilings of groups and the backlog of topics (sql/0021_ceilings.sql)."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0020_positions")]

    operations = [migrations.RunSQL((SQL / "0021_ceilings.sql").read_text())]
