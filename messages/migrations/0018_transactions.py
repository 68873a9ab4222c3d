"""Transactions under a producer's epoch (sql/0018_transactions.sql)."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"
DROP = """
DROP FUNCTION mq_epoch_open, mq_transaction_begin, mq_transaction_append, mq_transaction_purge;
DROP TABLE mq_producer, mq_transaction;
DROP SEQUENCE mq_epoch_seq;
"""


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0017_trace")]

    operations = [migrations.RunSQL((SQL / "0018_transactions.sql").read_text(), DROP)]
