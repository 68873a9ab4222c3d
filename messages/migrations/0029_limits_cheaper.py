"""Limits where groups are many (sql/0029_limits_cheaper.sql)."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0028_ordered")]

    operations = [migrations.RunSQL((SQL / "0029_limits_cheaper.sql").read_text())]
