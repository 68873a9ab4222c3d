"""Delivery by webhook (sql/0012_push.sql)."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0011_half")]

    operations = [
        migrations.RunSQL(
            (SQL / "0012_push.sql").read_text(),
            "DROP FUNCTION mq_push_record(bigint, bigint, interval, bigint, bigint, text, int, interval);"
            " DROP FUNCTION mq_push_claim(bigint, interval); DROP FUNCTION mq_push_due(bigint[]); DROP TABLE mq_push",
        )
    ]
