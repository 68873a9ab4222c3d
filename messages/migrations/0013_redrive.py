"""Redrives become operations: one row tells of each message where it went (sql/0013_redrive.sql).

What was redriven before is kept; a redrive that is still running ends, and what it had not come to stays dead.
"""

from pathlib import Path

import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

SQL = Path(__file__).resolve().parent.parent / "sql"
KEEP = """
INSERT INTO mq_redriven (group_id, message_id, at, actor_id, watched)
  SELECT r.group_id, i.message_id, coalesce(i.done_at, r.created_at), r.actor_id, false
    FROM mq_redrive_item i JOIN mq_redrive r ON r.id = i.redrive_id WHERE i.state = 'redriven' ORDER BY i.id;
DROP TABLE mq_redrive_item;
DROP TABLE mq_redrive;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("mq_messages", "0012_push"),
        ("operations", "0003_scopes"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[migrations.DeleteModel("RedriveItem"), migrations.DeleteModel("Redrive")],
        ),
        migrations.CreateModel(
            name="Redrive",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("group_id", models.BigIntegerField(editable=False, verbose_name="consumer group")),
                ("message_id", models.BigIntegerField(editable=False, verbose_name="message")),
                ("new_topic_id", models.BigIntegerField(editable=False, null=True)),
                ("new_id", models.BigIntegerField(editable=False, null=True, verbose_name="new message")),
                (
                    "at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(), editable=False, verbose_name="redriven"
                    ),
                ),
                ("watched", models.BooleanField(default=False, editable=False)),
                (
                    "actor",
                    models.ForeignKey(
                        db_constraint=False,
                        editable=False,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="redriven by",
                    ),
                ),
                (
                    "operation",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        editable=False,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="operations.operation",
                    ),
                ),
            ],
            options={
                "verbose_name": "redrive",
                "verbose_name_plural": "redrives",
                "db_table": "mq_redriven",
                "ordering": ["-id"],
                "permissions": [
                    ("send_message", "Can send messages"),
                    ("consume_message", "Can pull and settle messages"),
                    ("view_message", "Can read messages"),
                    ("view_body", "Can read the bodies of messages"),
                    ("change_delayed", "Can cancel and reschedule delayed messages"),
                ],
                "indexes": [
                    models.Index(fields=["group_id", "message_id"], name="mq_redriven_message"),
                    models.Index(fields=["group_id", "-id"], name="mq_redriven_group"),
                    models.Index(condition=models.Q(("new_id__isnull", False)), fields=["new_id"], name="mq_redriven_new"),
                    models.Index(condition=models.Q(("watched", True)), fields=["operation", "-id"], name="mq_redriven_watched"),
                ],
            },
        ),
        migrations.RunSQL(KEEP),
        migrations.RunSQL((SQL / "0013_redrive.sql").read_text()),
    ]
