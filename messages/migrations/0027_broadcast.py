"""Broadcast groups: an instance is a group of the store of its own (sql/0027_broadcast.sql)."""

from pathlib import Path

from django.db import migrations, models

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0026_limits")]

    operations = [
        migrations.AddField(model_name="reset", name="eras", field=models.JSONField(editable=False, null=True)),
        migrations.RunSQL((SQL / "0027_broadcast.sql").read_text()),
    ]
