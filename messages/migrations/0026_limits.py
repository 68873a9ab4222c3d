"""Time to live and maximum length of topics (sql/0026_limits.sql)."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0025_tags")]

    operations = [migrations.RunSQL((SQL / "0026_limits.sql").read_text())]
