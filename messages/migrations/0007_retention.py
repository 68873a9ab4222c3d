"""Partitions behind are dropped when nobody needs them any more (sql/0007_retention.sql)."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"
UNDO = "DROP FUNCTION mq_may_drop, mq_cut_at, mq_mark_done, mq_kept, mq_needed_by; DROP TABLE mq_done"


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0006_topic_retire")]

    operations = [migrations.RunSQL((SQL / "0007_retention.sql").read_text(), UNDO)]
