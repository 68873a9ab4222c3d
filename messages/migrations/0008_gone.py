"""A message that is gone holds up no group (sql/0008_gone.sql); the functions before it did the same as long as nothing was gone."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0007_retention")]

    operations = [migrations.RunSQL((SQL / "0008_gone.sql").read_text(), migrations.RunSQL.noop)]
