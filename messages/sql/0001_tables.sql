-- Tables of the message store. docs/message-store.md explains the design; one letter per status in the database:
-- L later, P processing, D dead, F failed. Columns are ordered for alignment: fixed width first.

CREATE SEQUENCE mq_id_seq AS bigint MINVALUE 0 CACHE 1;      -- a cache would hand out ids that are older than the horizon
CREATE SEQUENCE mq_token_seq AS bigint CACHE 32;             -- a lease token only has to be unique

CREATE TABLE mq_message (
    topic_id  bigint      NOT NULL,
    id        bigint      NOT NULL,                          -- no default: ids come from mq_draw_ids, after the lock
    sent_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    origin_id bigint,                                        -- the id that the producer got, when the message was a delayed one
    lane      smallint    NOT NULL DEFAULT -1,               -- crc32(sharding key) & 63 on ordered topics, else -1
    tag       text        NOT NULL DEFAULT '',
    key       text,
    skey      text,
    headers   text,                                          -- JSON as it was sent; never queried, so never parsed
    body      bytea       NOT NULL,
    PRIMARY KEY (topic_id, id)
) PARTITION BY RANGE (id);
CREATE INDEX mq_message_key ON mq_message (topic_id, key, id) WHERE key IS NOT NULL;       -- search by key
CREATE INDEX mq_message_origin ON mq_message (origin_id) WHERE origin_id IS NOT NULL;      -- the producer's id of a delayed message

CREATE TABLE mq_horizon (
    one             smallint    PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    closed_id       bigint      NOT NULL,                    -- no transaction can still commit a message at or below this id
    pending_id      bigint      NOT NULL,                    -- closed as soon as pending_holders have ended
    bumped_id       bigint      NOT NULL,                    -- where the clock last put the sequence: nothing was sent there
    drawn_id        bigint      NOT NULL,                    -- the newest id seen that a sender drew
    partitioned_to  bigint      NOT NULL,                    -- first id without a partition
    at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    refused_at      timestamptz,                             -- when a tick last refused to follow a jump of the clock
    pending_holders text[]      NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);

CREATE TABLE mq_group (                                      -- locked first by every verb of a group; changed by people only
    group_id     bigint      PRIMARY KEY,
    max_attempts int         NOT NULL CHECK (max_attempts >= 1),
    suspended    boolean     NOT NULL DEFAULT false,
    retired      boolean     NOT NULL DEFAULT false,
    backoff_ms   bigint[]    NOT NULL CHECK (cardinality(backoff_ms) >= 1),
    created_at   timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE mq_topic (                                      -- topics with a subscriber: whose messages are counted
    topic_id   bigint      PRIMARY KEY,
    cut_id     bigint      NOT NULL DEFAULT 0,               -- mq_stat is complete up to here
    checked_at timestamptz NOT NULL DEFAULT '-infinity',
    retired    boolean     NOT NULL DEFAULT false
) WITH (fillfactor = 50);

CREATE TABLE mq_cursor (                                     -- everything of the topic at or below pos has been handed out to the group
    group_id   bigint  NOT NULL REFERENCES mq_group,
    topic_id   bigint  NOT NULL,
    pos        bigint  NOT NULL,
    processing bigint  NOT NULL DEFAULT 0,
    succeeded  bigint  NOT NULL DEFAULT 0,                   -- accepted acks, never inferred
    later      bigint  NOT NULL DEFAULT 0,
    dead       bigint  NOT NULL DEFAULT 0,
    failed     bigint  NOT NULL DEFAULT 0,
    skipped    bigint  NOT NULL DEFAULT 0,
    filter_no  int     NOT NULL DEFAULT 1,
    active     boolean NOT NULL DEFAULT true,                -- false: unsubscribed, kept for its history
    tags       text[],                                       -- NULL: all
    PRIMARY KEY (group_id, topic_id)
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX mq_cursor_topic ON mq_cursor (topic_id, group_id);                             -- the groups of a message's topic

CREATE TABLE mq_span (                                       -- what the group's relation to each stretch of the log is
    group_id  bigint      NOT NULL,
    topic_id  bigint      NOT NULL,
    lo        bigint      NOT NULL,                          -- (lo, hi]; hi NULL: up to the end
    hi        bigint,
    filter_no int         NOT NULL DEFAULT 0,
    kind      "char"      NOT NULL CHECK (kind IN ('D', 'K', 'N')),   -- delivered, skipped, not subscribed
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    tags      text[],
    PRIMARY KEY (group_id, topic_id, lo)
);

CREATE TABLE mq_lease (                                      -- one row per pull and topic, not one per message
    group_id    bigint      NOT NULL,
    token       bigint      NOT NULL,
    topic_id    bigint      NOT NULL,
    lo          bigint      NOT NULL,                        -- fresh messages in (lo, hi]
    hi          bigint      NOT NULL,
    lease_until timestamptz NOT NULL,
    pulled_at   timestamptz NOT NULL,
    n           int         NOT NULL,
    left_n      int         NOT NULL,
    lane        smallint    NOT NULL DEFAULT -1,
    alone       boolean     NOT NULL,                        -- the only message of its pull: its crash counts as an attempt
    acked       varbit,                                      -- NULL: none settled yet
    tags        text[],
    consumer    text        NOT NULL,
    PRIMARY KEY (group_id, token, topic_id, lane)
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX mq_lease_until ON mq_lease (lease_until);                                      -- which leases have expired

CREATE TABLE mq_exception (                                  -- only messages that did not go straight through
    group_id    bigint      NOT NULL,
    msg_id      bigint      NOT NULL,
    topic_id    bigint      NOT NULL,
    token       bigint,                                      -- of the lease that holds or last settled it
    due_at      timestamptz,                                 -- L: not before
    lease_until timestamptz,                                 -- P: not after
    pulled_at   timestamptz,
    first_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts    int         NOT NULL,                        -- failed tries that count
    redrives    int         NOT NULL DEFAULT 0,
    lane        smallint    NOT NULL DEFAULT -1,
    status      "char"      NOT NULL CHECK (status IN ('L', 'P', 'D', 'F')),
    single      boolean     NOT NULL DEFAULT false,          -- its lease expired: handed out alone from now on
    skey        text,
    consumer    text,
    error       text,
    PRIMARY KEY (group_id, msg_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX mq_exception_due ON mq_exception (group_id, due_at) WHERE status = 'L';        -- pull: retries that are due
CREATE INDEX mq_exception_token ON mq_exception (group_id, token) WHERE status = 'P';       -- settle: the retries of a lease
CREATE INDEX mq_exception_until ON mq_exception (lease_until) WHERE status = 'P';           -- expire
CREATE INDEX mq_exception_dead ON mq_exception (group_id, msg_id) WHERE status = 'D';       -- list of dead letters

CREATE TABLE mq_history (                                    -- finished leases: who had what, when pulled, when done
    group_id   bigint      NOT NULL,
    topic_id   bigint      NOT NULL,
    lo         bigint      NOT NULL,
    hi         bigint      NOT NULL,
    token      bigint      NOT NULL,
    pulled_at  timestamptz NOT NULL,
    settled_at timestamptz NOT NULL,
    n          int         NOT NULL,
    attempts   int         NOT NULL,
    retried    boolean     NOT NULL,                         -- one retried message (hi) that succeeded; else a lease's range
    expired    boolean     NOT NULL DEFAULT false,
    acked      varbit,                                       -- which of the range succeeded under this lease; NULL: all
    consumer   text        NOT NULL
) PARTITION BY RANGE (hi);
CREATE INDEX mq_history_hi ON mq_history (group_id, topic_id, retried, hi);                 -- who succeeded with a message

CREATE TABLE mq_delayed (                                    -- partitioned by due time: emptied partitions are dropped, not vacuumed
    id         bigint      NOT NULL,                         -- the id that the producer got; it finds the message for good
    deliver_at timestamptz NOT NULL,
    topic_id   bigint      NOT NULL,
    sent_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    lane       smallint    NOT NULL DEFAULT -1,
    tag        text        NOT NULL DEFAULT '',
    key        text,
    skey       text,
    headers    text,
    body       bytea       NOT NULL
) PARTITION BY RANGE (deliver_at);
CREATE INDEX mq_delayed_due ON mq_delayed (deliver_at, id);                                 -- promoter; list by time
CREATE INDEX mq_delayed_topic ON mq_delayed (topic_id, deliver_at, id);                     -- list of one topic
CREATE INDEX mq_delayed_id ON mq_delayed (id);                                              -- find, cancel, reschedule

-- Producers' own message ids. A unique index cannot span id partitions, so they have a table of their own. A claim is inserted
-- before the message lock, when the ids are not drawn yet; mq_claim gets them afterwards, one row per send.
CREATE TABLE mq_producer_id (
    topic_id    bigint NOT NULL,
    claim       bigint NOT NULL,
    ord         int    NOT NULL,                             -- 1-based place in mq_claim.ids
    producer_id text   COLLATE "C" NOT NULL,              -- claims are inserted in this order
    PRIMARY KEY (topic_id, producer_id)
);
CREATE INDEX mq_producer_id_claim ON mq_producer_id (claim);                                -- purge after the time to live
CREATE SEQUENCE mq_claim_seq AS bigint CACHE 1;
CREATE TABLE mq_claim (
    claim   bigint PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    ids     bigint[] NOT NULL,
    due     timestamptz[]                                    -- deliver_at of the delayed ones; NULL: none was delayed
);
CREATE INDEX mq_claim_at ON mq_claim (at);                                                  -- purge after the time to live

CREATE TABLE mq_stat (                                       -- cumulative count of a topic's messages up to hi; tag '*' is the total
    topic_id bigint NOT NULL,
    tag      text   NOT NULL,
    hi       bigint NOT NULL,
    cum      bigint NOT NULL,
    PRIMARY KEY (topic_id, tag, hi)
);
