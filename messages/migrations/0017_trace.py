"""What the store knows of a message's life (sql/0017_trace.sql)."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0016_delayed")]

    operations = [migrations.RunSQL((SQL / "0017_trace.sql").read_text(), migrations.RunSQL.noop)]
