"""How far thousands of groups are behind, without searching an array for each (sql/0010_lag.sql); what it tells is the same."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0009_topic_of")]

    operations = [migrations.RunSQL((SQL / "0010_lag.sql").read_text(), migrations.RunSQL.noop)]
