-- Messages that are gone although a group still had to do with them: retention never lets that happen, a partition dropped by hand does.

-- Retries whose turn it is and whose message is gone become F, given up with that reason: they would be handed out as nothing for ever.
-- A pull calls it, with the group's row locked.
CREATE FUNCTION mq_give_up_gone(p_group bigint, p_now timestamptz, p_limit int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE k int;
BEGIN
  WITH due AS (SELECT e.msg_id, e.topic_id FROM mq_exception e WHERE e.group_id = p_group AND e.status = 'L' AND e.due_at <= p_now
                ORDER BY e.due_at, e.msg_id LIMIT p_limit),
       gone AS (UPDATE mq_exception e SET status = 'F', due_at = NULL, last_at = p_now, error = coalesce(e.error || '; ', '') || 'the message is gone'
                  FROM due WHERE e.group_id = p_group AND e.msg_id = due.msg_id
                   AND NOT EXISTS (SELECT FROM mq_message m WHERE m.topic_id = due.topic_id AND m.id = due.msg_id) RETURNING e.topic_id),
       counted AS (UPDATE mq_cursor c SET later = c.later - x.n, failed = c.failed + x.n FROM (SELECT topic_id, count(*) AS n FROM gone GROUP BY 1) x
                    WHERE c.group_id = p_group AND c.topic_id = x.topic_id)
  SELECT count(*) INTO k FROM gone;
  RETURN k;
END $$;
ALTER FUNCTION mq_give_up_gone SET plan_cache_mode = force_generic_plan;

-- As before, but it gives up what is gone, and says then that there may be more (hint 2).
CREATE OR REPLACE FUNCTION mq_pull(p_group bigint, p_limit int, p_visibility interval, p_consumer text, p_async boolean,
                        p_scan int DEFAULT 5000, p_bytes bigint DEFAULT 33554432) RETURNS SETOF mq_row LANGUAGE plpgsql AS $$
DECLARE g mq_group; c mq_cursor; r record; v_now timestamptz; v_until timestamptz; v_closed bigint; v_token bigint; v_single boolean;
        v_left int := p_limit; v_n int; v_k int := 0; v_hi bigint; v_seen bigint; v_scanned int; v_more boolean := false; v_bytes bigint := p_bytes;
        v_len bigint;
BEGIN
  SELECT * INTO g FROM mq_group q WHERE q.group_id = p_group FOR NO KEY UPDATE;
  IF g.group_id IS NULL OR g.retired OR g.suspended THEN
    RETURN NEXT ROW('H', NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL,
                    CASE WHEN g.group_id IS NULL THEN 'unknown' WHEN g.retired THEN 'retired' ELSE 'suspended' END)::mq_row;
    RETURN;
  END IF;
  IF p_async THEN PERFORM set_config('synchronous_commit', 'off', true); END IF;   -- losing a pull only redelivers
  v_now := clock_timestamp();   -- after the wait for the lock
  v_until := v_now + p_visibility;

  -- Retries that are due come first (an index probe when there are none). One whose lease expired is handed out alone, so that
  -- a message that crashes its worker takes no other with it.
  SELECT e.single INTO v_single FROM mq_exception e WHERE e.group_id = p_group AND e.status = 'L' AND e.due_at <= v_now ORDER BY e.due_at, e.msg_id LIMIT 1;
  IF FOUND THEN
    v_token := nextval('mq_token_seq');
    RETURN QUERY
      WITH due AS (SELECT e.msg_id, e.topic_id FROM mq_exception e WHERE e.group_id = p_group AND e.status = 'L' AND e.due_at <= v_now
                    AND (v_single OR NOT e.single) ORDER BY e.due_at, e.msg_id LIMIT CASE WHEN v_single THEN 1 ELSE p_limit END),
           m AS MATERIALIZED (SELECT x.*, sum(octet_length(x.body)) OVER (ORDER BY x.id) - octet_length(x.body) AS before
                   FROM due CROSS JOIN LATERAL (SELECT mm.* FROM mq_message mm WHERE mm.topic_id = due.topic_id AND mm.id = due.msg_id LIMIT 1) x),
           u AS (UPDATE mq_exception e SET status = 'P', token = v_token, lease_until = v_until, pulled_at = v_now, consumer = p_consumer
                   FROM m WHERE e.group_id = p_group AND e.msg_id = m.id AND m.before < p_bytes RETURNING e.msg_id, e.attempts)
      SELECT 'M'::"char", m.id, m.topic_id, m.origin_id, m.sent_at, u.attempts + 1, m.tag, m.key, m.skey, m.headers, m.body, NULL::text
        FROM u JOIN m ON m.id = u.msg_id ORDER BY m.id;
    GET DIAGNOSTICS v_k = ROW_COUNT;
    IF v_k = 0 THEN   -- not one of those whose turn it is exists: the next pull comes to others
      PERFORM mq_give_up_gone(p_group, v_now, p_limit);
      v_single := false;
      v_more := true;
    END IF;
    SELECT p_bytes - coalesce(sum(x.len), 0) INTO v_bytes FROM mq_exception e CROSS JOIN LATERAL
      (SELECT octet_length(mm.body) AS len FROM mq_message mm WHERE mm.topic_id = e.topic_id AND mm.id = e.msg_id LIMIT 1) x
     WHERE e.group_id = p_group AND e.token = v_token AND e.status = 'P';
    UPDATE mq_cursor q SET later = q.later - x.k, processing = q.processing + x.k
      FROM (SELECT e.topic_id, count(*) AS k FROM mq_exception e WHERE e.group_id = p_group AND e.token = v_token AND e.status = 'P' GROUP BY 1) x
     WHERE q.group_id = p_group AND q.topic_id = x.topic_id;
    v_left := CASE WHEN v_single THEN 0 ELSE p_limit - v_k END;
  END IF;

  SELECT h.closed_id INTO v_closed FROM mq_horizon h;
  IF v_left > 0 THEN
  FOR c IN SELECT * FROM mq_cursor q WHERE q.group_id = p_group AND q.active AND q.pos < v_closed ORDER BY random() LOOP   -- no topic starves another
    EXIT WHEN v_left <= 0 OR v_bytes <= 0;   -- the limit of bytes is of the whole pull, retries and all topics
    v_n := 0;
    IF c.tags IS NULL THEN
      SELECT count(*), max(s.id), coalesce(sum(s.len), 0) INTO v_n, v_hi, v_len FROM (
        SELECT q.id, q.len, sum(q.len) OVER (ORDER BY q.id) - q.len AS before FROM (
          SELECT m.id, octet_length(m.body) AS len FROM mq_message m
           WHERE m.topic_id = c.topic_id AND m.id > c.pos AND m.id <= v_closed ORDER BY m.id LIMIT v_left) q) s
       WHERE s.before < v_bytes;
      v_bytes := v_bytes - v_len;
    ELSE   -- a rare tag: the scan is bounded, and the cursor remembers how far it got
      v_scanned := 0;
      FOR r IN SELECT m.id, m.tag, octet_length(m.body) AS len FROM mq_message m
                WHERE m.topic_id = c.topic_id AND m.id > c.pos AND m.id <= v_closed ORDER BY m.id LIMIT p_scan LOOP
        v_scanned := v_scanned + 1;
        IF r.tag = ANY (c.tags) THEN
          v_n := v_n + 1; v_hi := r.id; v_bytes := v_bytes - r.len;
          EXIT WHEN v_n >= v_left OR v_bytes <= 0;
        END IF;
        v_seen := r.id;
      END LOOP;
      IF v_n = 0 AND v_scanned >= 500 THEN
        UPDATE mq_cursor q SET pos = v_seen WHERE q.group_id = p_group AND q.topic_id = c.topic_id;
        v_more := v_more OR v_scanned >= p_scan;
      END IF;
    END IF;
    IF v_n > 0 THEN
      v_token := coalesce(v_token, nextval('mq_token_seq'));
      UPDATE mq_cursor q SET pos = v_hi, processing = q.processing + v_n WHERE q.group_id = p_group AND q.topic_id = c.topic_id;
      INSERT INTO mq_lease (group_id, token, topic_id, lo, hi, lease_until, pulled_at, n, left_n, alone, tags, consumer)
        VALUES (p_group, v_token, c.topic_id, c.pos, v_hi, v_until, v_now, v_n, v_n, p_limit = 1, c.tags, p_consumer);
      RETURN QUERY SELECT 'M'::"char", m.id, m.topic_id, m.origin_id, m.sent_at, 1, m.tag, m.key, m.skey, m.headers, m.body, NULL::text
        FROM mq_message m WHERE m.topic_id = c.topic_id AND m.id > c.pos AND m.id <= v_hi AND (c.tags IS NULL OR m.tag = ANY (c.tags)) ORDER BY m.id;
      v_k := v_k + v_n; v_left := v_left - v_n;
    END IF;
  END LOOP;
  END IF;
  IF v_k = 1 AND p_limit > 1 THEN   -- the only one although more were asked for: its crash counts, too
    UPDATE mq_lease l SET alone = true WHERE l.group_id = p_group AND l.token = v_token;
    UPDATE mq_exception e SET single = true WHERE e.group_id = p_group AND e.token = v_token AND e.status = 'P' AND NOT e.single;
  ELSIF v_k = 1 THEN
    UPDATE mq_exception e SET single = true WHERE e.group_id = p_group AND e.token = v_token AND e.status = 'P' AND NOT e.single;
  END IF;
  RETURN NEXT ROW('H', CASE WHEN v_k > 0 THEN v_token END, NULL, NULL, v_until,
                  CASE WHEN v_more AND v_k = 0 THEN 2 WHEN v_left > 0 AND v_closed < (SELECT last_value FROM mq_id_seq) THEN 1 ELSE 0 END,
                  NULL, NULL, NULL, NULL, NULL,
                  CASE WHEN v_k > 0 THEN NULL WHEN EXISTS (SELECT FROM mq_cursor q WHERE q.group_id = p_group AND q.active) THEN 'empty' ELSE 'not_subscribed' END)::mq_row;
END $$;
ALTER FUNCTION mq_pull SET plan_cache_mode = force_generic_plan;

-- Leases of one group that ran out. Only a message that was handed out alone is charged with an attempt; the others get a turn alone.
CREATE OR REPLACE FUNCTION mq_expire(p_group bigint, p_limit int DEFAULT 100) RETURNS int LANGUAGE plpgsql AS $$
DECLARE g mq_group; l mq_lease; r record; c record; v_now timestamptz; v_ids bigint[]; v_active boolean; k int := 0; v_gone int; v_lost int;
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
    SELECT q.active INTO v_active FROM mq_cursor q WHERE q.group_id = p_group AND q.topic_id = l.topic_id;
    SELECT * INTO c FROM mq_outcome(g, v_active, (CASE WHEN l.alone THEN 'X' ELSE 'L' END)::"char", 0, CASE WHEN l.alone THEN NULL ELSE 0 END, v_now);
    INSERT INTO mq_exception (group_id, msg_id, topic_id, first_at, last_at, pulled_at, consumer, attempts, lane, status, due_at, single, error)
      SELECT p_group, u.id, l.topic_id, v_now, v_now, l.pulled_at, l.consumer, c.attempts, l.lane, c.status, c.due_at, true, 'lease expired' FROM unnest(v_ids) u(id);
    DELETE FROM mq_lease q WHERE q.group_id = p_group AND q.token = l.token AND q.topic_id = l.topic_id AND q.lane = l.lane;
    INSERT INTO mq_history (group_id, topic_id, lo, hi, token, pulled_at, settled_at, n, attempts, retried, expired, acked, consumer)
      VALUES (p_group, l.topic_id, l.lo, l.hi, l.token, l.pulled_at, v_now, l.n, 1, false, true, coalesce(l.acked, repeat('0', 2 * l.n)::varbit), l.consumer);
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
