-- Rewind and skip: the position of a group on one topic is moved by a person, and moved back by undo.
--
-- What a rewind makes waiting again has succeeded before, and the history says so. So a position has an era, one more with each move: an
-- ack counts as long as its era is not older than that of the span that the message lies in. Nothing of the history is deleted, and a
-- move costs the same whether ten messages are repeated or ten million.
SET LOCAL lock_timeout = '10s';   -- behind a long reader the migration fails, instead of making every pull wait behind it

ALTER TABLE mq_cursor ADD COLUMN era int NOT NULL DEFAULT 0;
ALTER TABLE mq_history ADD COLUMN era int NOT NULL DEFAULT 0;
ALTER TABLE mq_span ADD COLUMN era int;
UPDATE mq_span SET era = 0;
ALTER TABLE mq_span ALTER COLUMN era SET NOT NULL;

-- A new span has the era of its position, whichever verb makes it.
CREATE FUNCTION mq_span_era() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.era IS NULL THEN
    NEW.era := coalesce((SELECT c.era FROM mq_cursor c WHERE c.group_id = NEW.group_id AND c.topic_id = NEW.topic_id), 0);
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER era BEFORE INSERT ON mq_span FOR EACH ROW EXECUTE FUNCTION mq_span_era();

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

-- As before, but what is written into the history has the era.
-- Settle: ONE verb for every outcome of a lease, fresh and retried messages alike. Ids are distinct and sorted (the service sees to
-- it); statuses: S succeeded, X failed, L later, D dead. Outcomes that simply succeeded return no row.
CREATE OR REPLACE FUNCTION mq_settle(p_group bigint, p_token bigint, p_ids bigint[], p_status "char"[], p_delay_ms bigint[], p_error text[], p_async boolean)
RETURNS SETOF mq_row LANGUAGE plpgsql AS $$
DECLARE g mq_group; l mq_lease; c record; v_now timestamptz; v_ids bigint[]; v_all boolean := p_status IS NULL; v_live boolean := false;
        v_matched bigint[] := '{}'; v_acked varbit; v_done int; s_ok int; s_later int; s_dead int; s_failed int; v_active boolean; v_era int; r record;
BEGIN
  SELECT * INTO g FROM mq_group q WHERE q.group_id = p_group FOR NO KEY UPDATE;
  IF p_async THEN PERFORM set_config('synchronous_commit', 'off', true); END IF;   -- losing an ack only redelivers
  v_now := clock_timestamp();
  IF v_all THEN p_status := array_fill('S'::"char", ARRAY[cardinality(p_ids)]); END IF;

  FOR l IN SELECT * FROM mq_lease q WHERE q.group_id = p_group AND q.token = p_token AND q.lease_until > v_now ORDER BY q.topic_id LOOP
    v_live := true;
    -- the messages of this lease in their order: the same rows as at the pull, since the log is append-only and (lo, hi] closed
    v_ids := ARRAY(SELECT m.id FROM mq_message m WHERE m.topic_id = l.topic_id AND m.id > l.lo AND m.id <= l.hi
                     AND (l.tags IS NULL OR m.tag = ANY (l.tags)) ORDER BY m.id);
    IF cardinality(v_ids) <> l.n THEN   -- somebody went round the horizon: say so instead of settling the wrong ones
      RAISE EXCEPTION 'the log has changed inside a lease' USING ERRCODE = 'data_corrupted';
    END IF;
    IF v_all AND l.acked IS NULL AND v_ids = p_ids THEN   -- the whole lease succeeded
      DELETE FROM mq_lease q WHERE q.group_id = p_group AND q.token = p_token AND q.topic_id = l.topic_id AND q.lane = l.lane;
      UPDATE mq_cursor q SET processing = q.processing - l.n, succeeded = q.succeeded + l.n WHERE q.group_id = p_group AND q.topic_id = l.topic_id
        RETURNING q.era INTO v_era;
      INSERT INTO mq_history (group_id, topic_id, lo, hi, token, pulled_at, settled_at, n, attempts, retried, era, consumer)
        VALUES (p_group, l.topic_id, l.lo, l.hi, p_token, l.pulled_at, v_now, l.n, 1, false, v_era, l.consumer);
      RETURN;
    END IF;
    SELECT q.active, q.era INTO v_active, v_era FROM mq_cursor q WHERE q.group_id = p_group AND q.topic_id = l.topic_id;
    v_acked := coalesce(l.acked, repeat('0', 2 * l.n)::varbit);   -- two bits a message: settled, succeeded
    s_ok := 0; s_later := 0; s_dead := 0; s_failed := 0;
    FOR r IN SELECT s.id, s.pos::int - 1 AS pos, o.status, o.delay, o.error FROM unnest(v_ids) WITH ORDINALITY s(id, pos)
               JOIN unnest(p_ids, p_status, p_delay_ms, p_error) o(id, status, delay, error) ON o.id = s.id ORDER BY s.pos LOOP
      v_matched := v_matched || r.id;
      IF get_bit(v_acked, 2 * r.pos) = 1 THEN
        RETURN NEXT ROW('S', r.id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'already_settled')::mq_row;
        CONTINUE;
      END IF;
      v_acked := set_bit(v_acked, 2 * r.pos, 1);
      IF r.status = 'S' THEN
        v_acked := set_bit(v_acked, 2 * r.pos + 1, 1); s_ok := s_ok + 1;
      ELSE
        INSERT INTO mq_exception AS e (group_id, msg_id, topic_id, token, first_at, last_at, pulled_at, consumer, attempts, lane, status, due_at, error)
          SELECT p_group, r.id, l.topic_id, p_token, v_now, v_now, l.pulled_at, l.consumer, o.attempts, l.lane, o.status, o.due_at, r.error
            FROM mq_outcome(g, v_active, r.status, 0, r.delay, v_now) o
          RETURNING e.status, e.due_at INTO c;
        s_later := s_later + (c.status = 'L')::int; s_dead := s_dead + (c.status = 'D')::int; s_failed := s_failed + (c.status = 'F')::int;
        RETURN NEXT ROW('S', r.id, NULL, NULL, c.due_at, NULL, c.status::text, NULL, NULL, NULL, NULL, NULL)::mq_row;
      END IF;
    END LOOP;
    v_done := s_ok + s_later + s_dead + s_failed;
    IF v_done = 0 THEN CONTINUE; END IF;
    IF v_done = l.left_n THEN
      DELETE FROM mq_lease q WHERE q.group_id = p_group AND q.token = p_token AND q.topic_id = l.topic_id AND q.lane = l.lane;
      INSERT INTO mq_history (group_id, topic_id, lo, hi, token, pulled_at, settled_at, n, attempts, retried, era, acked, consumer)
        VALUES (p_group, l.topic_id, l.lo, l.hi, p_token, l.pulled_at, v_now, l.n, 1, false, v_era, v_acked, l.consumer);
    ELSE
      UPDATE mq_lease q SET acked = v_acked, left_n = q.left_n - v_done
       WHERE q.group_id = p_group AND q.token = p_token AND q.topic_id = l.topic_id AND q.lane = l.lane;
    END IF;
    UPDATE mq_cursor q SET processing = q.processing - v_done, succeeded = q.succeeded + s_ok, later = q.later + s_later,
           dead = q.dead + s_dead, failed = q.failed + s_failed WHERE q.group_id = p_group AND q.topic_id = l.topic_id;
  END LOOP;

  IF cardinality(v_matched) < cardinality(p_ids) THEN
    -- the retried messages of the same lease
    FOR r IN SELECT e.msg_id AS id, e.topic_id, e.attempts, e.pulled_at, e.consumer, o.status, o.delay, o.error, q.active, q.era
               FROM mq_exception e JOIN unnest(p_ids, p_status, p_delay_ms, p_error) o(id, status, delay, error) ON o.id = e.msg_id
               JOIN mq_cursor q ON q.group_id = p_group AND q.topic_id = e.topic_id
              WHERE e.group_id = p_group AND e.token = p_token AND e.status = 'P' AND e.lease_until > v_now ORDER BY e.msg_id LOOP
      v_live := true;
      v_matched := v_matched || r.id;
      IF r.status = 'S' THEN
        DELETE FROM mq_exception e WHERE e.group_id = p_group AND e.msg_id = r.id;
        INSERT INTO mq_history (group_id, topic_id, lo, hi, token, pulled_at, settled_at, n, attempts, retried, era, consumer)
          VALUES (p_group, r.topic_id, r.id - 1, r.id, p_token, r.pulled_at, v_now, 1, r.attempts + 1, true, r.era, r.consumer);
        UPDATE mq_cursor q SET processing = q.processing - 1, succeeded = q.succeeded + 1 WHERE q.group_id = p_group AND q.topic_id = r.topic_id;
      ELSE
        UPDATE mq_exception e SET status = o.status, attempts = o.attempts, due_at = o.due_at, error = r.error, last_at = v_now, lease_until = NULL, single = false
          FROM mq_outcome(g, r.active, r.status, r.attempts, r.delay, v_now) o
         WHERE e.group_id = p_group AND e.msg_id = r.id RETURNING e.status, e.due_at INTO c;
        UPDATE mq_cursor q SET processing = q.processing - 1, later = q.later + (c.status = 'L')::int, dead = q.dead + (c.status = 'D')::int,
               failed = q.failed + (c.status = 'F')::int WHERE q.group_id = p_group AND q.topic_id = r.topic_id;
        RETURN NEXT ROW('S', r.id, NULL, NULL, c.due_at, NULL, c.status::text, NULL, NULL, NULL, NULL, NULL)::mq_row;
      END IF;
    END LOOP;
  END IF;

  -- The rest gets a problem each, never silence.
  IF cardinality(v_matched) < cardinality(p_ids) THEN
    v_live := v_live OR EXISTS (SELECT FROM mq_exception e WHERE e.group_id = p_group AND e.token = p_token AND e.status = 'P' AND e.lease_until > v_now);
    RETURN QUERY SELECT 'S'::"char", o.id, NULL::bigint, NULL::bigint, NULL::timestamptz, NULL::int, NULL::text, NULL::text, NULL::text, NULL::text, NULL::bytea,
      CASE WHEN EXISTS (SELECT FROM mq_exception e WHERE e.group_id = p_group AND e.msg_id = o.id AND e.token = p_token AND e.status <> 'P')
             OR EXISTS (SELECT FROM mq_cursor q JOIN mq_history h ON h.group_id = q.group_id AND h.topic_id = q.topic_id
                         WHERE q.group_id = p_group AND h.retried AND h.hi = o.id AND h.token = p_token)
             OR EXISTS (SELECT FROM mq_cursor q CROSS JOIN LATERAL (
                          SELECT * FROM mq_history h WHERE h.group_id = q.group_id AND h.topic_id = q.topic_id AND NOT h.retried AND h.hi >= o.id
                             AND h.era = q.era ORDER BY h.hi LIMIT 1) h
                         JOIN mq_message m ON m.topic_id = q.topic_id AND m.id = o.id
                         WHERE q.group_id = p_group AND h.token = p_token AND h.lo < o.id AND NOT h.expired AND (q.tags IS NULL OR m.tag = ANY (q.tags)))
           THEN 'already_settled' WHEN v_live THEN 'not_in_lease' ELSE 'lease_expired' END
      FROM unnest(p_ids) o(id) WHERE o.id <> ALL (v_matched);
  END IF;
END $$;
ALTER FUNCTION mq_settle SET plan_cache_mode = force_generic_plan;

-- Leases of one group that ran out. Only a message that was handed out alone is charged with an attempt; the others get a turn alone.
CREATE OR REPLACE FUNCTION mq_expire(p_group bigint, p_limit int DEFAULT 100) RETURNS int LANGUAGE plpgsql AS $$
DECLARE g mq_group; l mq_lease; r record; c record; v_now timestamptz; v_ids bigint[]; v_active boolean; k int := 0; v_era int; v_gone int; v_lost int;
BEGIN
  SELECT * INTO g FROM mq_group q WHERE q.group_id = p_group FOR NO KEY UPDATE;
  IF NOT FOUND THEN RETURN 0; END IF;
  v_now := clock_timestamp();
  FOR l IN SELECT * FROM mq_lease q WHERE q.group_id = p_group AND q.lease_until <= v_now ORDER BY q.lease_until LIMIT p_limit LOOP
    -- Whatever of a lease is gone is its beginning: the oldest partitions go first.
    SELECT greatest(l.n - count(*), 0) INTO v_gone FROM mq_message m
     WHERE m.topic_id = l.topic_id AND m.id > l.lo AND m.id <= l.hi AND (l.tags IS NULL OR m.tag = ANY (l.tags));
    v_ids := ARRAY(SELECT s.id FROM (SELECT m.id, row_number() OVER (ORDER BY m.id)::int - 1 + v_gone AS pos FROM mq_message m
                     WHERE m.topic_id = l.topic_id AND m.id > l.lo AND m.id <= l.hi AND (l.tags IS NULL OR m.tag = ANY (l.tags))) s
                   WHERE l.acked IS NULL OR get_bit(l.acked, 2 * s.pos) = 0);
    v_lost := greatest(l.left_n - cardinality(v_ids), 0);
    SELECT q.active, q.era INTO v_active, v_era FROM mq_cursor q WHERE q.group_id = p_group AND q.topic_id = l.topic_id;
    SELECT * INTO c FROM mq_outcome(g, v_active, (CASE WHEN l.alone THEN 'X' ELSE 'L' END)::"char", 0, CASE WHEN l.alone THEN NULL ELSE 0 END, v_now);
    INSERT INTO mq_exception (group_id, msg_id, topic_id, first_at, last_at, pulled_at, consumer, attempts, lane, status, due_at, single, error)
      SELECT p_group, u.id, l.topic_id, v_now, v_now, l.pulled_at, l.consumer, c.attempts, l.lane, c.status, c.due_at, true, 'lease expired' FROM unnest(v_ids) u(id);
    DELETE FROM mq_lease q WHERE q.group_id = p_group AND q.token = l.token AND q.topic_id = l.topic_id AND q.lane = l.lane;
    INSERT INTO mq_history (group_id, topic_id, lo, hi, token, pulled_at, settled_at, n, attempts, retried, expired, era, acked, consumer)
      VALUES (p_group, l.topic_id, l.lo, l.hi, l.token, l.pulled_at, v_now, l.n, 1, false, true, v_era, coalesce(l.acked, repeat('0', 2 * l.n)::varbit), l.consumer);
    UPDATE mq_cursor q SET processing = q.processing - cardinality(v_ids) - v_lost,
           later = q.later + CASE WHEN c.status = 'L' THEN cardinality(v_ids) ELSE 0 END,
           dead = q.dead + CASE WHEN c.status = 'D' THEN cardinality(v_ids) ELSE 0 END,
           failed = q.failed + v_lost + CASE WHEN c.status = 'F' THEN cardinality(v_ids) ELSE 0 END
     WHERE q.group_id = p_group AND q.topic_id = l.topic_id;
    k := k + cardinality(v_ids) + v_lost;
  END LOOP;
  FOR r IN SELECT e.msg_id, e.topic_id, e.attempts, e.single, q.active FROM mq_exception e JOIN mq_cursor q ON q.group_id = e.group_id AND q.topic_id = e.topic_id
            WHERE e.group_id = p_group AND e.status = 'P' AND e.lease_until <= v_now ORDER BY e.lease_until LIMIT p_limit * 10 LOOP
    UPDATE mq_exception e SET status = o.status, attempts = o.attempts, due_at = o.due_at, token = NULL, lease_until = NULL, single = true, last_at = v_now, error = 'lease expired'
      FROM mq_outcome(g, r.active, (CASE WHEN r.single THEN 'X' ELSE 'L' END)::"char", r.attempts, CASE WHEN r.single THEN NULL ELSE 0 END, v_now) o
     WHERE e.group_id = p_group AND e.msg_id = r.msg_id RETURNING e.status INTO c;
    UPDATE mq_cursor q SET processing = q.processing - 1, later = q.later + (c.status = 'L')::int, dead = q.dead + (c.status = 'D')::int,
           failed = q.failed + (c.status = 'F')::int WHERE q.group_id = p_group AND q.topic_id = r.topic_id;
    k := k + 1;
  END LOOP;
  RETURN k;
END $$;
ALTER FUNCTION mq_expire SET plan_cache_mode = force_generic_plan;

-- Status of one message in every group of its topic. Succeeded means an accepted ack inside a delivered span: the absence of an
-- exception alone proves nothing. W waiting, P processing, S succeeded, L later, D dead, F failed, K skipped, N not subscribed.
CREATE OR REPLACE FUNCTION mq_status(p_topic bigint, p_id bigint) RETURNS TABLE (group_id bigint, status text, attempts int, error text,
    next_retry_at timestamptz, consumer text, pulled_at timestamptz, settled_at timestamptz, lease_until timestamptz) STABLE LANGUAGE sql AS $$
  SELECT c.group_id, s.status,
    CASE s.status WHEN 'W' THEN 0 WHEN 'K' THEN 0 WHEN 'N' THEN 0 WHEN 'S' THEN coalesce(hr.attempts, 1)
                  WHEN 'P' THEN coalesce(e.attempts, 0) + 1 ELSE e.attempts END,
    e.error, CASE WHEN e.status = 'L' THEN e.due_at END,
    coalesce(e.consumer, l.consumer, hr.consumer, hf.consumer), coalesce(e.pulled_at, l.pulled_at, hr.pulled_at, hf.pulled_at),
    CASE WHEN s.status = 'S' THEN coalesce(hr.settled_at, hf.settled_at) WHEN s.status IN ('D', 'F') THEN e.last_at END,
    CASE WHEN s.status = 'P' THEN coalesce(e.lease_until, l.lease_until) END
  FROM mq_cursor c
  JOIN mq_message m ON m.topic_id = p_topic AND m.id = p_id
  LEFT JOIN mq_exception e ON e.group_id = c.group_id AND e.msg_id = p_id
  LEFT JOIN LATERAL (SELECT z.* FROM mq_span z WHERE z.group_id = c.group_id AND z.topic_id = p_topic AND z.lo < p_id AND (z.hi IS NULL OR z.hi >= p_id)
                      ORDER BY z.lo DESC LIMIT 1) sp ON true
  LEFT JOIN LATERAL (SELECT z.* FROM mq_lease z WHERE z.group_id = c.group_id AND z.topic_id = p_topic AND z.lo < p_id AND z.hi >= p_id
                        AND (z.tags IS NULL OR m.tag = ANY (z.tags)) LIMIT 1) l ON e.group_id IS NULL
  LEFT JOIN LATERAL (SELECT z.* FROM mq_history z WHERE z.group_id = c.group_id AND z.topic_id = p_topic AND z.retried AND z.hi = p_id AND z.era >= sp.era
                      ORDER BY z.settled_at DESC LIMIT 1) hr ON e.group_id IS NULL
  LEFT JOIN LATERAL (SELECT y.* FROM (SELECT * FROM mq_history z WHERE z.group_id = c.group_id AND z.topic_id = p_topic AND NOT z.retried AND z.hi >= p_id AND z.era >= sp.era
                      ORDER BY z.hi LIMIT 1) y WHERE y.lo < p_id) hf ON e.group_id IS NULL AND l.group_id IS NULL AND hr.group_id IS NULL
  LEFT JOIN LATERAL (SELECT count(*)::int AS pos FROM mq_message x WHERE x.topic_id = p_topic AND x.id > coalesce(l.lo, hf.lo) AND x.id < p_id
                        AND (CASE WHEN l.group_id IS NOT NULL THEN l.tags ELSE sp.tags END IS NULL
                          OR x.tag = ANY (CASE WHEN l.group_id IS NOT NULL THEN l.tags ELSE sp.tags END))) p ON coalesce(l.acked, hf.acked) IS NOT NULL
  CROSS JOIN LATERAL (SELECT CASE
      WHEN e.group_id IS NOT NULL THEN e.status::text
      WHEN sp.kind IS NULL OR sp.kind = 'N' OR (sp.tags IS NOT NULL AND NOT m.tag = ANY (sp.tags)) THEN 'N'
      WHEN sp.kind = 'K' THEN 'K'
      WHEN p_id > c.pos THEN 'W'
      WHEN hr.group_id IS NOT NULL THEN 'S'
      WHEN l.group_id IS NOT NULL THEN CASE WHEN l.acked IS NOT NULL AND get_bit(l.acked, 2 * p.pos + 1) = 1 THEN 'S' ELSE 'P' END
      WHEN hf.group_id IS NOT NULL AND (hf.acked IS NULL OR get_bit(hf.acked, 2 * p.pos + 1) = 1) THEN 'S'
      ELSE 'K' END AS status) s
  WHERE c.topic_id = p_topic
  ORDER BY c.group_id $$;

-- What a group has made of a topic's messages in (p_lo, p_hi], all of them at or below its position: by status, from the counters of the
-- topic, the spans and the exceptions. A message that was delivered and is neither an exception nor in a lease has succeeded.
CREATE FUNCTION mq_tally(p_group bigint, p_topic bigint, p_lo bigint, p_hi bigint, OUT processing bigint, OUT succeeded bigint, OUT later bigint,
                         OUT dead bigint, OUT failed bigint, OUT skipped bigint) STABLE LANGUAGE plpgsql AS $$
DECLARE l mq_lease; v_leased bigint := 0; v_n bigint;
BEGIN
  SELECT coalesce(sum(x.n) FILTER (WHERE x.kind = 'D'), 0), coalesce(sum(x.n) FILTER (WHERE x.kind = 'K'), 0) INTO succeeded, skipped FROM (
    SELECT s.kind, mq_count(p_topic, greatest(s.lo, p_lo), least(coalesce(s.hi, p_hi), p_hi), s.tags) AS n FROM mq_span s
     WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.kind <> 'N' AND s.lo < p_hi AND (s.hi IS NULL OR s.hi > p_lo)) x;
  SELECT count(*) FILTER (WHERE e.status = 'P'), count(*) FILTER (WHERE e.status = 'L'), count(*) FILTER (WHERE e.status = 'D'),
         count(*) FILTER (WHERE e.status = 'F'), succeeded - count(*) INTO processing, later, dead, failed, succeeded
    FROM mq_exception e WHERE e.group_id = p_group AND e.topic_id = p_topic AND e.msg_id > p_lo AND e.msg_id <= p_hi;
  FOR l IN SELECT * FROM mq_lease q WHERE q.group_id = p_group AND q.topic_id = p_topic AND q.hi > p_lo LOOP
    v_n := l.left_n;
    IF l.lo < p_lo THEN   -- only its end
      SELECT count(*) INTO v_n FROM (SELECT m.id, row_number() OVER (ORDER BY m.id)::int - 1 AS pos FROM mq_message m
         WHERE m.topic_id = p_topic AND m.id > l.lo AND m.id <= l.hi AND (l.tags IS NULL OR m.tag = ANY (l.tags))) s
       WHERE s.id > p_lo AND (l.acked IS NULL OR get_bit(l.acked, 2 * s.pos) = 0);
    END IF;
    v_leased := v_leased + v_n;
  END LOOP;
  processing := processing + v_leased;
  succeeded := succeeded - v_leased;
END $$;
ALTER FUNCTION mq_tally SET plan_cache_mode = force_generic_plan;

-- The position before the first message that was sent at or after a time; NULL when there is none. Ids only follow the clock as long as
-- somebody ticks, so the times of sending decide: the search ends a few seconds too early, and looks at each message from there on.
CREATE FUNCTION mq_position_at(p_topic bigint, p_time timestamptz) RETURNS bigint STABLE LANGUAGE plpgsql SET enable_sort = off AS $$
DECLARE v_lo bigint := mq_oldest() - 1; v_hi bigint := (SELECT closed_id FROM mq_horizon); v_closed bigint := v_hi; v_mid bigint; m record;
BEGIN
  WHILE v_hi - v_lo > 64 LOOP
    v_mid := (v_lo + v_hi) / 2;
    SELECT x.id, x.sent_at INTO m FROM mq_message x WHERE x.topic_id = p_topic AND x.id > v_mid AND x.id <= v_closed ORDER BY x.id LIMIT 1;
    IF m.id IS NULL OR m.sent_at >= p_time - interval '5 s' THEN v_hi := v_mid; ELSE v_lo := m.id; END IF;
  END LOOP;
  SELECT x.id INTO m FROM mq_message x WHERE x.topic_id = p_topic AND x.id > v_lo AND x.id <= v_closed AND x.sent_at >= p_time ORDER BY x.id LIMIT 1;
  RETURN m.id - 1;
END $$;

-- The oldest id that is still kept.
CREATE FUNCTION mq_oldest() RETURNS bigint STABLE LANGUAGE sql AS $$ SELECT min(p.lo::bigint) FROM mq_partitions('mq_message') p $$;

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
    era         int        -- after it was done
);

-- What moving a position would do. The preview shows it, and mq_reset does what it says or nothing: there is no second computation.
CREATE FUNCTION mq_reset_plan(p_group bigint, p_topic bigint, p_target bigint) RETURNS mq_plan STABLE LANGUAGE plpgsql AS $$
DECLARE g mq_group; c mq_cursor; t record; p mq_plan; v_again bigint;
BEGIN
  SELECT * INTO g FROM mq_group q WHERE q.group_id = p_group;
  SELECT * INTO c FROM mq_cursor q WHERE q.group_id = p_group AND q.topic_id = p_topic AND q.active;
  p.done := false;
  p.problem := CASE WHEN g.group_id IS NULL THEN 'unknown' WHEN g.retired THEN 'retired' WHEN c.group_id IS NULL THEN 'not_subscribed'
                    WHEN p_target < mq_oldest() - 1 AND p_target < c.pos THEN 'beyond_retention'
                    WHEN p_target > c.pos AND p_target > (SELECT closed_id FROM mq_horizon) THEN 'ahead' END;
  IF p.problem IS NOT NULL THEN RETURN p; END IF;
  p.pos := c.pos; p.target := p_target; p.repeated := 0; p.first_time := 0; p.passed := 0;
  SELECT * INTO t FROM mq_tally(p_group, p_topic, least(p_target, c.pos), c.pos);
  p.processing := t.processing; p.succeeded := t.succeeded; p.later := t.later; p.dead := t.dead; p.failed := t.failed; p.skipped := t.skipped;
  IF p_target > c.pos THEN
    p.passed := mq_count(p_topic, c.pos, p_target, c.tags);
  ELSIF p_target < c.pos THEN   -- what is handed out from there on goes by the filter of today
    v_again := mq_count(p_topic, p_target, c.pos, c.tags);
    SELECT coalesce(sum(mq_count(p_topic, greatest(s.lo, p_target), least(coalesce(s.hi, c.pos), c.pos),
             CASE WHEN s.tags IS NULL THEN c.tags WHEN c.tags IS NULL THEN s.tags ELSE ARRAY(SELECT unnest(s.tags) INTERSECT SELECT unnest(c.tags)) END)), 0)
      INTO p.repeated FROM mq_span s
     WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.kind = 'D' AND s.lo < c.pos AND (s.hi IS NULL OR s.hi > p_target);
    p.first_time := v_again - p.repeated;
  END IF;
  p.fingerprint := md5(concat_ws('|', c.pos, p_target, c.era, c.filter_no, c.processing, c.succeeded, c.later, c.dead, c.failed, c.skipped,
                                 p.repeated, p.first_time, p.passed, p.processing, p.succeeded, p.later, p.dead, p.failed, p.skipped));
  RETURN p;
END $$;

-- Move the position as the plan with this fingerprint says; done = false and nothing is changed when the plan is another one now.
-- A rewind: a lease that reaches beyond the target ends, what is unsettled of it becomes an exception in the same worker's hands; then all
-- exceptions and spans beyond the target go into mq_undo. A skip leaves retries and what is in hand alone.
CREATE FUNCTION mq_reset(p_group bigint, p_topic bigint, p_target bigint, p_fingerprint text) RETURNS mq_plan LANGUAGE plpgsql AS $$
DECLARE c mq_cursor; l mq_lease; v_span mq_span; h mq_history; p mq_plan; v_now timestamptz; v_gone int; v_lost int; v_n int;
BEGIN
  PERFORM FROM mq_group q WHERE q.group_id = p_group FOR NO KEY UPDATE;
  p := mq_reset_plan(p_group, p_topic, p_target);
  IF p.problem IS NOT NULL OR p.fingerprint IS DISTINCT FROM p_fingerprint OR p.target = p.pos THEN RETURN p; END IF;
  v_now := clock_timestamp();
  SELECT * INTO c FROM mq_cursor q WHERE q.group_id = p_group AND q.topic_id = p_topic;
  DELETE FROM mq_undo q WHERE q.group_id = p_group AND q.topic_id = p_topic;
  DELETE FROM mq_undo_exception q WHERE q.group_id = p_group AND q.topic_id = p_topic;
  INSERT INTO mq_undo (group_id, topic_id, from_pos, to_pos, era, filter_no, spans)
    SELECT p_group, p_topic, c.pos, p_target, c.era + 1, c.filter_no, coalesce(jsonb_agg(to_jsonb(s)), '[]') FROM mq_span s
     WHERE s.group_id = p_group AND s.topic_id = p_topic AND p_target < c.pos AND (s.hi IS NULL OR s.hi > p_target);
  IF p_target > c.pos THEN
    UPDATE mq_cursor q SET pos = p_target, era = q.era + 1, skipped = q.skipped + p.passed WHERE q.group_id = p_group AND q.topic_id = p_topic;
    UPDATE mq_span s SET hi = c.pos WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.hi IS NULL;
    DELETE FROM mq_span s WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.hi <= s.lo;
    INSERT INTO mq_span (group_id, topic_id, lo, hi, kind, filter_no, tags) VALUES (p_group, p_topic, c.pos, p_target, 'K', c.filter_no, c.tags);
  ELSE
    FOR l IN SELECT * FROM mq_lease q WHERE q.group_id = p_group AND q.topic_id = p_topic AND q.hi > p_target ORDER BY q.token LOOP
      SELECT greatest(l.n - count(*), 0) INTO v_gone FROM mq_message m   -- as mq_expire: whatever of a lease is gone is its beginning
       WHERE m.topic_id = l.topic_id AND m.id > l.lo AND m.id <= l.hi AND (l.tags IS NULL OR m.tag = ANY (l.tags));
      INSERT INTO mq_exception (group_id, msg_id, topic_id, token, lease_until, pulled_at, first_at, last_at, attempts, lane, status, single, consumer)
        SELECT p_group, s.id, l.topic_id, l.token, l.lease_until, l.pulled_at, v_now, v_now, 0, l.lane, 'P', l.alone, l.consumer
          FROM (SELECT m.id, row_number() OVER (ORDER BY m.id)::int - 1 + v_gone AS pos FROM mq_message m
                 WHERE m.topic_id = l.topic_id AND m.id > l.lo AND m.id <= l.hi AND (l.tags IS NULL OR m.tag = ANY (l.tags))) s
         WHERE l.acked IS NULL OR get_bit(l.acked, 2 * s.pos) = 0;
      GET DIAGNOSTICS v_lost = ROW_COUNT;
      v_lost := l.left_n - v_lost;
      DELETE FROM mq_lease q WHERE q.group_id = p_group AND q.token = l.token AND q.topic_id = l.topic_id AND q.lane = l.lane;
      INSERT INTO mq_history (group_id, topic_id, lo, hi, token, pulled_at, settled_at, n, attempts, retried, expired, era, acked, consumer)
        VALUES (p_group, l.topic_id, l.lo, l.hi, l.token, l.pulled_at, v_now, l.n, 1, false, true, c.era, coalesce(l.acked, repeat('0', 2 * l.n)::varbit), l.consumer);
      IF v_lost > 0 THEN
        UPDATE mq_cursor q SET processing = q.processing - v_lost, failed = q.failed + v_lost WHERE q.group_id = p_group AND q.topic_id = p_topic;
      END IF;
    END LOOP;
    -- The finished lease across the target is cut in two: the status of a message is looked up in the first one that ends at or behind it,
    -- and those that are to come end between. A lease lies within one span.
    SELECT * INTO v_span FROM mq_span q WHERE q.group_id = p_group AND q.topic_id = p_topic AND q.lo < p_target AND (q.hi IS NULL OR q.hi > p_target);
    SELECT * INTO h FROM mq_history q WHERE q.group_id = p_group AND q.topic_id = p_topic AND NOT q.retried AND q.hi > p_target AND q.era >= v_span.era
     ORDER BY q.hi LIMIT 1;
    v_n := h.n - mq_count(p_topic, p_target, h.hi, v_span.tags);
    IF h.lo < p_target AND v_n > 0 THEN
      DELETE FROM mq_history q WHERE q.group_id = p_group AND q.topic_id = p_topic AND NOT q.retried AND q.hi = h.hi AND q.token = h.token;
      INSERT INTO mq_history (group_id, topic_id, lo, hi, token, pulled_at, settled_at, n, attempts, retried, expired, era, acked, consumer) VALUES
        (p_group, p_topic, h.lo, p_target, h.token, h.pulled_at, h.settled_at, v_n, h.attempts, false, h.expired, h.era,
         substring(h.acked FROM 1 FOR 2 * v_n), h.consumer),
        (p_group, p_topic, p_target, h.hi, h.token, h.pulled_at, h.settled_at, h.n - v_n, h.attempts, false, h.expired, h.era,
         substring(h.acked FROM 2 * v_n + 1), h.consumer);
    END IF;
    WITH away AS (DELETE FROM mq_exception e WHERE e.group_id = p_group AND e.topic_id = p_topic AND e.msg_id > p_target RETURNING e.*)
    INSERT INTO mq_undo_exception (group_id, topic_id, msg_id, kept) SELECT p_group, p_topic, a.msg_id, to_jsonb(a) FROM away a;
    DELETE FROM mq_span s WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.lo >= p_target;
    UPDATE mq_span s SET hi = p_target WHERE s.group_id = p_group AND s.topic_id = p_topic AND (s.hi IS NULL OR s.hi > p_target);
    UPDATE mq_cursor q SET pos = p_target, era = q.era + 1, processing = q.processing - p.processing, succeeded = q.succeeded - p.succeeded,
           later = q.later - p.later, dead = q.dead - p.dead, failed = q.failed - p.failed, skipped = q.skipped - p.skipped
     WHERE q.group_id = p_group AND q.topic_id = p_topic;
  END IF;
  INSERT INTO mq_span (group_id, topic_id, lo, kind, filter_no, tags) VALUES (p_group, p_topic, p_target, 'D', c.filter_no, c.tags);
  p.done := true;
  p.era := c.era + 1;
  RETURN p;
END $$;
ALTER FUNCTION mq_reset SET plan_cache_mode = force_generic_plan;

-- Take the newest move back. Of a rewind: what has not been handed out again is as it was before, exceptions in workers' hands included;
-- what has been stays as the repetition left it. Of a skip: if nothing was handed out since, the position goes back; else the skipped
-- messages, p_most of them at the most, become retries that are due now, since a position has no holes.
CREATE FUNCTION mq_reset_undo(p_group bigint, p_topic bigint, p_era int, p_most bigint, OUT problem text, OUT restored bigint, OUT pos bigint)
LANGUAGE plpgsql AS $$
DECLARE c mq_cursor; u mq_undo; t record; v_now timestamptz;
BEGIN
  PERFORM FROM mq_group q WHERE q.group_id = p_group FOR NO KEY UPDATE;
  v_now := clock_timestamp();
  SELECT * INTO c FROM mq_cursor q WHERE q.group_id = p_group AND q.topic_id = p_topic AND q.active;
  SELECT * INTO u FROM mq_undo q WHERE q.group_id = p_group AND q.topic_id = p_topic AND q.era = p_era;
  IF u.era IS NULL OR c.era IS DISTINCT FROM u.era OR c.filter_no <> u.filter_no THEN
    problem := 'changed_since';
    RETURN;
  END IF;
  pos := u.from_pos;
  IF u.to_pos < u.from_pos THEN
    IF c.pos >= u.from_pos THEN problem := 'nothing_left'; RETURN; END IF;
    restored := mq_count(p_topic, c.pos, u.from_pos, c.tags);
    UPDATE mq_cursor q SET pos = u.from_pos, era = q.era + 1 WHERE q.group_id = p_group AND q.topic_id = p_topic;
    UPDATE mq_span s SET hi = c.pos WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.hi IS NULL;
    DELETE FROM mq_span s WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.hi <= s.lo;
    INSERT INTO mq_span (group_id, topic_id, lo, hi, kind, filter_no, era, tags)
      SELECT p_group, p_topic, greatest(s.lo, c.pos), least(coalesce(s.hi, u.from_pos), u.from_pos), s.kind, s.filter_no, s.era, s.tags
        FROM jsonb_populate_recordset(NULL::mq_span, u.spans) s
       WHERE s.lo < u.from_pos AND (s.hi IS NULL OR s.hi > c.pos);
    INSERT INTO mq_span (group_id, topic_id, lo, kind, filter_no, tags) VALUES (p_group, p_topic, u.from_pos, 'D', c.filter_no, c.tags);
    INSERT INTO mq_exception SELECT e.* FROM mq_undo_exception k CROSS JOIN LATERAL jsonb_populate_record(NULL::mq_exception, k.kept) e
      WHERE k.group_id = p_group AND k.topic_id = p_topic AND k.msg_id > c.pos;
    SELECT * INTO t FROM mq_tally(p_group, p_topic, c.pos, u.from_pos);
    UPDATE mq_cursor q SET processing = q.processing + t.processing, succeeded = q.succeeded + t.succeeded, later = q.later + t.later,
           dead = q.dead + t.dead, failed = q.failed + t.failed, skipped = q.skipped + t.skipped WHERE q.group_id = p_group AND q.topic_id = p_topic;
  ELSE
    restored := mq_count(p_topic, u.from_pos, u.to_pos, c.tags);
    IF c.pos = u.to_pos THEN
      UPDATE mq_cursor q SET pos = u.from_pos, era = q.era + 1, skipped = q.skipped - restored WHERE q.group_id = p_group AND q.topic_id = p_topic;
      DELETE FROM mq_span s WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.lo >= u.from_pos;
      INSERT INTO mq_span (group_id, topic_id, lo, kind, filter_no, tags) VALUES (p_group, p_topic, u.from_pos, 'D', c.filter_no, c.tags);
    ELSE
      IF restored > p_most THEN problem := 'too_many'; RETURN; END IF;
      pos := c.pos;
      INSERT INTO mq_exception (group_id, msg_id, topic_id, first_at, last_at, attempts, status, due_at, error)
        SELECT p_group, m.id, p_topic, v_now, v_now, 0, 'L', v_now, 'skipped, taken back' FROM mq_message m
         WHERE m.topic_id = p_topic AND m.id > u.from_pos AND m.id <= u.to_pos AND (c.tags IS NULL OR m.tag = ANY (c.tags));
      UPDATE mq_cursor q SET era = q.era + 1, skipped = q.skipped - restored, later = q.later + restored
       WHERE q.group_id = p_group AND q.topic_id = p_topic;
      UPDATE mq_span s SET kind = 'D' WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.lo = u.from_pos AND s.kind = 'K';
    END IF;
  END IF;
  DELETE FROM mq_undo q WHERE q.group_id = p_group AND q.topic_id = p_topic;
  DELETE FROM mq_undo_exception q WHERE q.group_id = p_group AND q.topic_id = p_topic;
END $$;
ALTER FUNCTION mq_reset_undo SET plan_cache_mode = force_generic_plan;
