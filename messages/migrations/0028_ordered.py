"""Ordered topics, and the permission to decide on stopped keys (sql/0028_ordered.sql)."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0027_broadcast")]

    operations = [
        migrations.AlterModelOptions(
            name="redrive",
            options={
                "ordering": ["-id"],
                "permissions": [
                    ("send_message", "Can send messages"),
                    ("consume_message", "Can pull and settle messages"),
                    ("view_message", "Can read messages"),
                    ("view_body", "Can read the bodies of messages"),
                    ("change_delayed", "Can cancel and reschedule delayed messages"),
                    ("purge_dead", "Can purge dead letters"),
                    ("decide_stopped", "Can decide on stopped keys"),
                ],
                "verbose_name": "redrive",
                "verbose_name_plural": "redrives",
            },
        ),
        migrations.RunSQL((SQL / "0028_ordered.sql").read_text()),
    ]
