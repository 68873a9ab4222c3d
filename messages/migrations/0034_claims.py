"""Producers' ids cost less: no index for their purge, and ids that follow each other are kept as the first of them."""

from django.db import migrations

from messages.migrations._sql import PATIENCE, load

TABLES = f"""
{PATIENCE};

ALTER TABLE mq_claim ALTER COLUMN ids DROP NOT NULL;
ALTER TABLE mq_claim ADD COLUMN first_id bigint;             -- in place of ids: they are first_id, first_id + 1, …
ALTER TABLE mq_claim ADD CONSTRAINT mq_claim_has_ids CHECK ((ids IS NULL) <> (first_id IS NULL));
DROP INDEX mq_producer_id_claim;
CREATE TABLE mq_purge (                                      -- how far the walk over mq_producer_id has come
    one   smallint    PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    below bigint,                                            -- this round takes claims up to this one
    page  bigint      DEFAULT 0,                             -- of the table, next; NULL: past its end, claims are deleted
    at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO mq_purge DEFAULT VALUES;

DROP FUNCTION IF EXISTS mq_claim_ids(bigint, text[]);
DROP FUNCTION IF EXISTS mq_purge_claims(interval, int);
"""


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0033_sticky")]

    operations = [
        migrations.RunSQL(TABLES, migrations.RunSQL.noop),
        load("append", "half", "horizon", "consume"),
    ]
