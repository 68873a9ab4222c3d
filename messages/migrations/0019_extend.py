"""A worker extends the lease that it holds (sql/0019_extend.sql)."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"
UNDO = "DROP FUNCTION mq_extend"


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0018_transactions")]

    operations = [migrations.RunSQL((SQL / "0019_extend.sql").read_text(), UNDO)]
