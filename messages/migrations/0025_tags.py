"""Several tags per message, and regular expressions as filters (sql/0025_tags.sql)."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0022_causes")]

    operations = [migrations.RunSQL((SQL / "0025_tags.sql").read_text())]
