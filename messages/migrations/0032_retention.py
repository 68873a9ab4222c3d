"""Retention of each topic: its rule and its floor (sql/floors.sql), what keeps a partition (sql/retention.sql); who may see the store."""

from django.db import migrations

from messages.migrations._sql import PATIENCE, load

TABLE = """
CREATE TABLE mq_retention (                                  -- topics that have or had a rule of their own; never deleted, what is gone stays gone
    topic_id   bigint      PRIMARY KEY,
    floor_id   bigint      NOT NULL DEFAULT 0,               -- everything at or below it is gone, but for who has it in hand
    ending_id  bigint      NOT NULL DEFAULT 0,               -- where the floor goes next: no group begins or goes back below it any more
    age_s      bigint      NOT NULL CHECK (age_s >= 0),      -- 0: no age
    size_bytes bigint      NOT NULL CHECK (size_bytes >= 0), -- 0: any size
    looked_at  timestamptz NOT NULL DEFAULT '-infinity',
    mode       "char"      NOT NULL CHECK (mode IN ('S', 'D', 'L'))   -- as the store; when all groups are done; by the limits alone
) WITH (fillfactor = 50);
CREATE INDEX mq_retention_looked ON mq_retention (looked_at) WHERE mode <> 'S';             -- whose turn it is to be looked at
"""


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0030_revisions")]

    operations = [
        migrations.RunSQL(f"{PATIENCE}; {TABLE}; DROP FUNCTION IF EXISTS mq_mark_done();"),
        load("floors", "retention", "limits", "broadcast", "positions"),
        migrations.AlterModelOptions(
            name="redrive",
            options={'ordering': ['-id'], 'permissions': [('send_message', 'Can send messages'), ('consume_message', 'Can pull and settle messages'), ('view_message', 'Can read messages'), ('view_body', 'Can read the bodies of messages'), ('change_delayed', 'Can cancel and reschedule delayed messages'), ('purge_dead', 'Can purge dead letters'), ('decide_stopped', 'Can decide on stopped keys'), ('view_storage', 'Can see the storage of messages')], 'verbose_name': 'redrive', 'verbose_name_plural': 'redrives'},
        ),
    ]
