-- Tables of the message store as its first migration makes them; later migrations alter them. docs/message-store.md explains the design.
-- The functions are in the other files by subject, each once, in its current state (messages/migrations/_sql.py). Statuses:
-- L later, P processing, D dead, F failed, B held back. Columns are ordered for alignment: fixed width first.

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
    created_at   timestamptz NOT NULL DEFAULT now(),
    max_outstanding int      NOT NULL DEFAULT 0 CHECK (max_outstanding >= 0),   -- 0: no ceiling
    limited      boolean     NOT NULL DEFAULT false,         -- a topic of it has or had a time to live: its pulls look
    ordered      boolean     NOT NULL DEFAULT false,         -- one of its topics is
    stop_key     boolean     NOT NULL DEFAULT false          -- out of attempts: wait for a person instead of becoming a dead letter
) WITH (fillfactor = 50);

CREATE TABLE mq_topic (                                      -- topics with a subscriber: whose messages are counted
    topic_id   bigint      PRIMARY KEY,
    cut_id     bigint      NOT NULL DEFAULT 0,               -- mq_stat is complete up to here
    checked_at timestamptz NOT NULL DEFAULT '-infinity',
    retired    boolean     NOT NULL DEFAULT false,
    ordering   smallint    NOT NULL DEFAULT 0                -- 0 none, 1 by sharding key, 2 the topic as a whole
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
    era        int     NOT NULL DEFAULT 0,                   -- one more with each move of the position (positions.sql)
    ordering   smallint NOT NULL DEFAULT 0,                  -- as the topic's
    held       bigint  NOT NULL DEFAULT 0,                   -- held back: exceptions B
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
    era       int         NOT NULL,                          -- of its position, when it was made
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
    okeys       bigint[],                                    -- the order keys of its messages, NULL for those held back; NULL: not ordered
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
    status      "char"      NOT NULL CHECK (status IN ('L', 'P', 'D', 'F', 'B')),
    single      boolean     NOT NULL DEFAULT false,          -- its lease expired: handed out alone from now on
    skey        text,
    consumer    text,
    error       text,
    okey        bigint,                                      -- its order key
    PRIMARY KEY (group_id, msg_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX mq_exception_due ON mq_exception (group_id, due_at) WHERE status = 'L';        -- pull: retries that are due
CREATE INDEX mq_exception_token ON mq_exception (group_id, token) WHERE status = 'P';       -- settle: the retries of a lease
CREATE INDEX mq_exception_until ON mq_exception (lease_until) WHERE status = 'P';           -- expire
CREATE INDEX mq_exception_dead ON mq_exception (group_id, msg_id) WHERE status = 'D';       -- list of dead letters
CREATE INDEX mq_exception_order ON mq_exception (group_id, okey, msg_id) WHERE okey IS NOT NULL AND status IN ('L', 'P', 'B');   -- is a key busy
CREATE INDEX mq_exception_stopped ON mq_exception (group_id, msg_id) WHERE status = 'L' AND due_at IS NULL;   -- keys that a person has to decide on

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
    consumer   text        NOT NULL,
    era        int         NOT NULL DEFAULT 0                -- of the position when it was settled
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

-- What pull, settle and next return. Rows have a kind: H header (id = token, at = lease_until, code = reason, attempt = 1 when the horizon lags behind the
-- sequence, 2 when a rare tag ended the scan early), M message, S settled outcome (tag = status, code = problem, at = next retry).
CREATE TYPE mq_row AS (kind "char", id bigint, topic_id bigint, origin_id bigint, at timestamptz, attempt int,
                       tag text, key text, skey text, headers text, body bytea, code text);

-- The storekeeper's own sign of life. The horizon's time is none: any pull that finds it behind ticks by itself and moves it.
CREATE TABLE mq_storekeeper (
    one     smallint    PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    beat_at timestamptz NOT NULL                             -- after a tick and its chores: if one of them hangs, it stands
) WITH (fillfactor = 50);

CREATE TABLE mq_done (                                       -- partitions that nobody needs any more
    hi         bigint      PRIMARY KEY,                      -- the partition's upper bound
    done_since timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE mq_half (
    id          bigint      PRIMARY KEY,                     -- the id that the producer got; it finds the message for good
    topic_id    bigint      NOT NULL,
    prepared_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    check_at    timestamptz NOT NULL,                        -- the next check-back
    check_ms    bigint      NOT NULL,                        -- between two of them
    asked_at    timestamptz,                                 -- when the producer itself last got it by asking for its open ones
    deliver_at  timestamptz,                                 -- delayed from the commit on
    decided_at  timestamptz,
    message_id  bigint,                                      -- C: its place in the log; NULL when it was delayed
    checks      int         NOT NULL DEFAULT 0,              -- begun check-backs
    state       "char"      NOT NULL DEFAULT 'O' CHECK (state IN ('O', 'U', 'C', 'R')),   -- open, undecided, committed, rolled back
    tag         text        NOT NULL DEFAULT '',
    key         text,
    skey        text,
    headers     text,
    producer_id text,
    decided_by  text,
    error       text,                                        -- why the last check-back decided nothing
    body        bytea       NOT NULL                         -- emptied by the decision
);
CREATE INDEX mq_half_check ON mq_half (check_at) WHERE state = 'O';                          -- which are due
CREATE INDEX mq_half_open ON mq_half (topic_id, id) WHERE state IN ('O', 'U');               -- a producer asks; retire a topic
CREATE INDEX mq_half_undecided ON mq_half (id) WHERE state = 'U';                            -- what waits for a person
CREATE INDEX mq_half_decided ON mq_half (decided_at) WHERE state IN ('C', 'R');              -- purge after the time to live

-- Delivery by webhook: which groups are being delivered, by whom, and how it went. Not locked together with anything: each statement stands alone.
CREATE TABLE mq_push (
    group_id      bigint      PRIMARY KEY,
    claim         bigint      NOT NULL DEFAULT 0,                -- whoever has it delivers; its number is drawn anew each time
    claimed_until timestamptz NOT NULL DEFAULT '-infinity',
    quiet_until   timestamptz NOT NULL DEFAULT '-infinity',      -- nobody answered: not before
    misses        int         NOT NULL DEFAULT 0,                -- rounds in a row in which nobody answered
    tried_at      timestamptz,
    succeeded_at  timestamptz,
    failed_at     timestamptz,
    delivered     bigint      NOT NULL DEFAULT 0,
    failed        bigint      NOT NULL DEFAULT 0,
    recent_since  timestamptz NOT NULL DEFAULT clock_timestamp(),   -- the counts of the present hour, for the rate of failures
    recent_ok     bigint      NOT NULL DEFAULT 0,
    recent_failed bigint      NOT NULL DEFAULT 0,
    error         text        NOT NULL DEFAULT ''
) WITH (fillfactor = 50);

-- What only one group gets lies in a private topic: a log of its own, with an id below zero, to which no other group ever subscribes. So
-- all verbs, counts and proofs hold for it as for any topic; people see it under the name of the topic that it belongs to.
CREATE TABLE mq_private (
    topic_id    bigint PRIMARY KEY,
    group_id    bigint NOT NULL,
    of_topic_id bigint NOT NULL,
    UNIQUE (group_id, of_topic_id),
    CHECK (topic_id < 0)
);
CREATE SEQUENCE mq_private_seq AS bigint;
CREATE SEQUENCE mq_epoch_seq AS bigint;                      -- of all producers: an epoch never comes again

CREATE TABLE mq_producer (                                   -- shared by its transactions, exclusive for whoever opens an epoch
    application_id bigint      NOT NULL,
    epoch          bigint      NOT NULL,                     -- the newest one; transactions of older ones are refused
    opened_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    name           text        COLLATE "C" NOT NULL,
    PRIMARY KEY (application_id, name)
) WITH (fillfactor = 50);

CREATE TABLE mq_transaction (                                -- committed ones with their first result
    application_id bigint      NOT NULL,
    epoch          bigint      NOT NULL,
    at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    producer       text        COLLATE "C" NOT NULL,
    id             text        COLLATE "C" NOT NULL,
    digest         bytea       NOT NULL,                     -- of what was asked for: an id stands for one transaction
    result         text,                                     -- JSON; NULL only while it is under way
    PRIMARY KEY (application_id, producer, id)
);
CREATE INDEX mq_transaction_at ON mq_transaction (at);                                      -- purge after the time to live

CREATE TABLE mq_undo (                                       -- what undoes the newest move of a position; at most one for each
    group_id  bigint NOT NULL,
    topic_id  bigint NOT NULL,
    from_pos  bigint NOT NULL,
    to_pos    bigint NOT NULL,
    era       int    NOT NULL,                               -- of the position after the move
    filter_no int    NOT NULL,
    spans     jsonb  NOT NULL,                               -- those that reached beyond to_pos before a rewind
    PRIMARY KEY (group_id, topic_id)
);

CREATE TABLE mq_undo_exception (                             -- and the exceptions beyond it
    group_id bigint NOT NULL,
    topic_id bigint NOT NULL,
    msg_id   bigint NOT NULL,
    kept     jsonb  NOT NULL,                                -- the whole row, whatever columns it has
    PRIMARY KEY (group_id, topic_id, msg_id)
);

CREATE TYPE mq_plan AS (
    problem     text,      -- unknown, retired, not_subscribed, beyond_retention, ahead: nothing can be done, and the rest is NULL
    pos         bigint,    -- where the group stands
    target      bigint,    -- where it would stand
    repeated    bigint,    -- had been handed out, and will be again
    first_time  bigint,    -- had been skipped or not been subscribed, and will be handed out
    passed      bigint,    -- wait, and will be skipped
    processing  bigint,    -- of a rewind: what becomes of the messages beyond the target is forgotten, by their status now
    succeeded   bigint,
    later       bigint,
    dead        bigint,
    failed      bigint,
    skipped     bigint,
    fingerprint text,      -- of all that this was computed from
    done        boolean,
    era         int,       -- after it was done
    held        bigint     -- of those that a rewind goes back over
);

-- What stands in the column of a topic's messages, as far as it is in the counters: which of the counters a filter adds up.
CREATE TABLE mq_label (
    topic_id bigint  NOT NULL,
    several  boolean NOT NULL,                               -- more than one tag
    label    text    NOT NULL,
    PRIMARY KEY (topic_id, several, label)
);

CREATE TABLE mq_limit (                                      -- topics that have one
    topic_id   bigint PRIMARY KEY,
    expired_id bigint NOT NULL DEFAULT 0,                    -- everything at or below it is older than the time to live
    ttl_s      bigint NOT NULL CHECK (ttl_s >= 0),           -- 0: none
    max_length bigint NOT NULL CHECK (max_length >= 0)       -- messages that wait for one group; 0: any number
) WITH (fillfactor = 50);

CREATE TABLE mq_broadcast (                                  -- locked by the group's row, like everything of a group
    group_id bigint   PRIMARY KEY REFERENCES mq_group,
    ttl      interval NOT NULL,                              -- an instance not seen for so long is given up
    latest   boolean  NOT NULL                               -- where a new instance begins
);

CREATE TABLE mq_broadcast_topic (                            -- what each instance is subscribed to, the ones to come included
    group_id bigint NOT NULL,
    topic_id bigint NOT NULL,
    tags     text[],                                         -- NULL: all
    PRIMARY KEY (group_id, topic_id)
);
CREATE INDEX mq_broadcast_topic_topic ON mq_broadcast_topic (topic_id);                     -- retiring a topic

CREATE TABLE mq_instance (
    instance_id bigint      PRIMARY KEY CHECK (instance_id < 0),   -- its group_id in every other table
    group_id    bigint      NOT NULL,
    began_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at     timestamptz NOT NULL DEFAULT clock_timestamp(),    -- written every few seconds while it pulls, settles or beats
    gone_at     timestamptz,                                       -- given up; its rows go in steps, this one last
    name        text        COLLATE "C" NOT NULL
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX mq_instance_name ON mq_instance (group_id, name) WHERE gone_at IS NULL;  -- find; one name, one position
CREATE INDEX mq_instance_gone ON mq_instance (gone_at) WHERE gone_at IS NOT NULL;            -- whose rows are to go
CREATE SEQUENCE mq_instance_seq AS bigint;                   -- an id never comes again: a given-up instance's leases stay nobody's
