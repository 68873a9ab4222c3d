"""A message is found by its id in one statement (sql/0009_topic_of.sql); the function before it found the same, slowly."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0008_gone")]

    operations = [migrations.RunSQL((SQL / "0009_topic_of.sql").read_text(), migrations.RunSQL.noop)]
