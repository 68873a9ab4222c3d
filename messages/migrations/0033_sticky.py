"""Sticky load balance: a sharding key stays with its worker."""

from django.db import migrations

from messages.migrations._sql import PATIENCE, load

TABLES = f"""
{PATIENCE};

CREATE TABLE mq_worker (                                     -- of sticky groups, those that are there; locked by the group's row
    worker_id bigint      PRIMARY KEY,
    group_id  bigint      NOT NULL REFERENCES mq_group,
    joined_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at   timestamptz NOT NULL DEFAULT clock_timestamp(),    -- written every few seconds while it pulls
    slots     smallint[]  NOT NULL DEFAULT '{{}}',                 -- its share of 0 to 255
    name      text        COLLATE "C" NOT NULL                   -- the consumer of its pulls
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX mq_worker_name ON mq_worker (group_id, name);
CREATE SEQUENCE mq_worker_seq AS bigint;                     -- an id never comes again: who waits under an old one asks anew

CREATE TABLE mq_moved (                                      -- leases with keys that belong to another worker by now
    group_id bigint   NOT NULL REFERENCES mq_group,
    token    bigint   NOT NULL,
    wkeys    bigint[] NOT NULL,
    consumer text     NOT NULL,
    PRIMARY KEY (group_id, token)
);

ALTER TABLE mq_group ADD COLUMN dealt int NOT NULL DEFAULT 0;            -- how often slots were dealt out; 0: it was never sticky
ALTER TABLE mq_group ADD COLUMN sticky boolean NOT NULL DEFAULT false;
ALTER TABLE mq_exception ADD COLUMN slot smallint;                       -- with B: parked for the worker that has it; else it once was
CREATE INDEX mq_exception_parked ON mq_exception (group_id, slot, msg_id) WHERE slot IS NOT NULL AND status = 'B';

DROP FUNCTION IF EXISTS mq_hold(bigint, bigint, bigint[], bigint[], timestamptz);
"""


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0032_retention")]

    operations = [
        migrations.RunSQL(TABLES, migrations.RunSQL.noop),
        load("consume", "ordered", "positions", "sticky", "status"),
    ]
