"""Counts and lag that look at no empty partition (sql/0004_counts.sql); the functions before them did the same, more slowly."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0003_view_body")]

    operations = [migrations.RunSQL((SQL / "0004_counts.sql").read_text(), migrations.RunSQL.noop)]
