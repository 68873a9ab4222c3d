-- Back-pressure: a ceiling of what a group may have in its workers' hands, and what a topic's backlog is.
SET LOCAL lock_timeout = '10s';

ALTER TABLE mq_group ADD COLUMN max_outstanding int NOT NULL DEFAULT 0 CHECK (max_outstanding >= 0);   -- 0: no ceiling

CREATE FUNCTION mq_group_ceiling(p_group bigint, p_max_outstanding int) RETURNS void LANGUAGE sql AS $$
  UPDATE mq_group SET max_outstanding = p_max_outstanding WHERE group_id = p_group $$;

-- What waits for the group of the topic that is furthest behind. Of groups with the same filter the one with the lowest position has most,
-- so each filter is counted once, however many groups there are.
CREATE FUNCTION mq_topic_backlog(p_topic bigint) RETURNS bigint STABLE LANGUAGE sql AS $$
  SELECT coalesce(max(mq_count(p_topic, c.pos, 9223372036854775807, c.tags)), 0)
    FROM (SELECT min(q.pos) AS pos, q.tags FROM mq_cursor q WHERE q.topic_id = p_topic AND q.active GROUP BY q.tags) c $$;

-- As before, but no more than the group's ceiling leaves room for; none: “outstanding”.
CREATE OR REPLACE FUNCTION mq_pull(p_group bigint, p_limit int, p_visibility interval, p_consumer text, p_async boolean,
                        p_scan int DEFAULT 5000, p_bytes bigint DEFAULT 33554432) RETURNS SETOF mq_row LANGUAGE plpgsql AS $$
DECLARE g mq_group; c mq_cursor; r record; v_now timestamptz; v_until timestamptz; v_closed bigint; v_token bigint; v_single boolean;
        v_left int := p_limit; v_n int; v_k int := 0; v_hi bigint; v_seen bigint; v_scanned int; v_more boolean := false; v_bytes bigint := p_bytes;
        v_len bigint; v_room bigint;
BEGIN
  SELECT * INTO g FROM mq_group q WHERE q.group_id = p_group FOR NO KEY UPDATE;
  IF g.group_id IS NULL OR g.retired OR g.suspended THEN
    RETURN NEXT ROW('H', NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL,
                    CASE WHEN g.group_id IS NULL THEN 'unknown' WHEN g.retired THEN 'retired' ELSE 'suspended' END)::mq_row;
    RETURN;
  END IF;
  IF p_async THEN PERFORM set_config('synchronous_commit', 'off', true); END IF;   -- losing a pull only redelivers
  IF g.max_outstanding > 0 THEN   -- retries and fresh messages alike; the counters are exact, since the group is locked
    SELECT g.max_outstanding - coalesce(sum(q.processing), 0) INTO v_room FROM mq_cursor q WHERE q.group_id = p_group;
    IF v_room <= 0 THEN
      RETURN NEXT ROW('H', NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL, 'outstanding')::mq_row;
      RETURN;
    END IF;
    p_limit := least(p_limit, v_room);
    v_left := p_limit;
  END IF;
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

-- As before, but a group at its ceiling is not ready: which of the waiting groups has something to pull: asked by one connection per process on behalf of all parked threads.
CREATE OR REPLACE FUNCTION mq_ready(p_groups bigint[]) RETURNS SETOF bigint VOLATILE LANGUAGE sql AS $$
  SELECT g.group_id FROM mq_group g
   WHERE g.group_id = ANY (p_groups)
     AND (g.suspended OR g.retired OR g.max_outstanding = 0
       OR (SELECT coalesce(sum(q.processing), 0) FROM mq_cursor q WHERE q.group_id = g.group_id) < g.max_outstanding)
     AND (g.suspended OR g.retired
       OR EXISTS (SELECT FROM mq_exception e WHERE e.group_id = g.group_id AND e.status = 'L' AND e.due_at <= clock_timestamp())
       OR EXISTS (SELECT FROM mq_cursor c CROSS JOIN mq_horizon h CROSS JOIN LATERAL (
                    SELECT count(*) AS n, bool_or(c.tags IS NULL OR x.tag = ANY (c.tags)) AS hit FROM (
                      SELECT m.tag FROM mq_message m WHERE m.topic_id = c.topic_id AND m.id > c.pos AND m.id <= h.closed_id
                       ORDER BY m.id LIMIT CASE WHEN c.tags IS NULL THEN 1 ELSE 500 END) x) m
                   WHERE c.group_id = g.group_id AND c.active AND c.pos < h.closed_id
                     AND (m.hit OR m.n = 500))) $$;   -- 500 without a hit: a pull moves the cursor on
