"""Dead letters by their causes, and the purge with its permission (sql/0014_dead.sql)."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0013_redrive")]

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
                ],
                "verbose_name": "redrive",
                "verbose_name_plural": "redrives",
            },
        ),
        migrations.RunSQL((SQL / "0014_dead.sql").read_text(), migrations.RunSQL.noop),
    ]
