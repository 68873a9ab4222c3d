"""Cursors and the horizon get a new revision every so often, so that a snapshot that is held does not slow pulls (sql/consume.sql)."""

from django.db import migrations

from messages.migrations._sql import PATIENCE, load

REVISIONS = """
ALTER TABLE mq_cursor ADD COLUMN rev bigint NOT NULL DEFAULT 0, ADD COLUMN uses smallint NOT NULL DEFAULT 0,   -- updates of it
  ADD COLUMN due_from timestamptz NOT NULL DEFAULT 'epoch';   -- no retry of the group is due before, as far as its pulls have seen
ALTER TABLE mq_cursor DROP CONSTRAINT mq_cursor_pkey, ADD PRIMARY KEY (group_id, topic_id, rev);
DROP INDEX mq_cursor_topic;
CREATE INDEX mq_cursor_topic ON mq_cursor (topic_id, group_id, rev);   -- the groups of a topic; with rev, since the planner may prefer it
ALTER TABLE mq_group ADD COLUMN topics bigint[] NOT NULL DEFAULT '{}';   -- of its cursors
UPDATE mq_group g SET topics = (SELECT array_agg(c.topic_id ORDER BY c.topic_id) FROM mq_cursor c WHERE c.group_id = g.group_id)
 WHERE EXISTS (SELECT FROM mq_cursor c WHERE c.group_id = g.group_id);
DROP TRIGGER IF EXISTS ordering ON mq_cursor;   -- its place has taken mq_cursor_made
DROP FUNCTION IF EXISTS mq_cursor_ordering();
DROP FUNCTION IF EXISTS mq_outcome(mq_group, boolean, "char", int, bigint, timestamptz, boolean);   -- it returns a table from now on
ALTER TABLE mq_horizon ADD COLUMN rev bigint NOT NULL DEFAULT 0, ADD COLUMN uses smallint NOT NULL DEFAULT 0;
ALTER TABLE mq_horizon DROP COLUMN one, ADD PRIMARY KEY (rev);
"""


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0001_squashed_0029_store")]

    operations = [migrations.RunSQL(f"{PATIENCE};{REVISIONS}"), load()]
