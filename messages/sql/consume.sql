-- Pull, settle, next, extend, expire. Every verb locks the group's row first: that is the lock order, and it makes the counters exact.

-- What is in hand under one lease is looked for by its token. `coalesce(lease_until, now) > now` keeps the planner from the index of leases that
-- end, which holds all of them: with few visible rows it thinks both the same.
CREATE OR REPLACE FUNCTION mq_backoff(p_backoff bigint[], p_attempts int) RETURNS interval IMMUTABLE LANGUAGE sql AS $$ SELECT p_backoff[least(greatest(p_attempts, 1), cardinality(p_backoff))] * interval '1 ms' $$;

-- The cursors of a group. One is updated with every pull and every ack, and while somebody holds a snapshot none of its old versions can
-- be taken away: whoever went through them would be slower with each. So it gets a new revision every 32 updates, and whoever looks often
-- takes the newest, which is the last in the index. Other statements may read the table as it is: one row of each is visible.
-- The planner knows of the few rows that are visible and not of the many that are not: left to itself it would read all and sort, so the
-- verbs that run all the time are told to walk their indexes.
CREATE OR REPLACE FUNCTION mq_cursors(p_group bigint) RETURNS SETOF mq_cursor STABLE LANGUAGE sql AS $$
  SELECT q.* FROM mq_group g CROSS JOIN LATERAL unnest(g.topics) t(id)
   CROSS JOIN LATERAL (SELECT * FROM mq_cursor c WHERE c.group_id = p_group AND c.topic_id = t.id ORDER BY c.rev DESC LIMIT 1) q
   WHERE g.group_id = p_group $$;

-- Where the search for retries that are due begins. A clock that was set back can leave one before it: each ten seconds one looks at all.
CREATE OR REPLACE FUNCTION mq_due_from(p_from timestamptz, p_now timestamptz) RETURNS timestamptz STABLE LANGUAGE sql AS $$
  SELECT CASE WHEN p_from <= p_now AND extract(epoch FROM p_now)::bigint % 10 > 0 THEN p_from ELSE 'epoch'::timestamptz END $$;

-- Pull: retries that are due first, then the next stretch of each topic under one lease. What is gone is given up on the way (hint 2: there
-- may be more), and no more is handed out than the group's ceiling leaves room for ("outstanding": none).
CREATE OR REPLACE FUNCTION mq_pull(p_group bigint, p_limit int, p_visibility interval, p_consumer text, p_async boolean,
                        p_scan int DEFAULT 5000, p_bytes bigint DEFAULT 33554432) RETURNS SETOF mq_row LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_sort = off SET enable_bitmapscan = off SET enable_seqscan = off AS $$
DECLARE g mq_group; c mq_cursor; r record; v_now timestamptz; v_until timestamptz; v_closed bigint; v_token bigint; v_single boolean;
        v_left int := p_limit; v_n int; v_k int := 0; v_hi bigint; v_seen bigint; v_scanned int; v_more boolean := false; v_bytes bigint := p_bytes;
        v_len bigint; v_turn bigint[]; o record; v_busy bigint; v_later bigint; v_from timestamptz; v_due timestamptz;
        w record; v_worker bigint; v_stuck boolean := false;
BEGIN
  SELECT * INTO g FROM mq_group q WHERE q.group_id = p_group FOR NO KEY UPDATE;
  IF g.group_id IS NULL OR g.retired OR g.suspended THEN
    RETURN NEXT ROW('H', NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL,
                    CASE WHEN g.group_id IS NULL THEN 'unknown' WHEN g.retired THEN 'retired' ELSE 'suspended' END)::mq_row;
    RETURN;
  END IF;
  IF p_async THEN PERFORM set_config('synchronous_commit', 'off', true); END IF;   -- losing a pull only redelivers
  IF g.sticky THEN
    SELECT * INTO w FROM mq_worker_asks(p_group, p_consumer);
    v_worker := w.worker;
    IF v_worker IS NULL THEN
      RETURN NEXT ROW('H', NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL, w.problem)::mq_row;
      RETURN;
    END IF;
  END IF;
  SELECT coalesce(sum(q.processing), 0), sum(q.later), max(q.due_from) INTO v_busy, v_later, v_from FROM mq_cursors(p_group) q;
  IF g.max_outstanding > 0 THEN   -- retries and fresh messages alike; the counters are exact, since the group is locked
    IF v_busy >= g.max_outstanding THEN
      RETURN NEXT ROW('H', NULL, v_worker, NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL, 'outstanding')::mq_row;
      RETURN;
    END IF;
    p_limit := least(p_limit, g.max_outstanding - v_busy);
    v_left := p_limit;
  END IF;
  v_now := clock_timestamp();   -- after the wait for the lock
  v_until := v_now + p_visibility;
  IF g.limited AND mq_take_out(p_group) THEN
    RETURN NEXT ROW('H', NULL, NULL, NULL, NULL, 2, NULL, NULL, NULL, NULL, NULL, 'empty')::mq_row;
    RETURN;
  END IF;

  -- Retries that are due come first. One whose lease expired is handed out alone, so that a message that crashes its worker takes no
  -- other with it. What was found due first is where the next search begins (due_from): before it lie those that were handed out, and
  -- while somebody holds a snapshot each search would go through all of them.
  IF g.sticky THEN v_turn := mq_sticky_due(p_group, w.slots, w.busy, g.ordered, v_from, v_now, p_limit);
  ELSIF g.ordered THEN v_turn := mq_order_due(p_group, v_now, p_limit); END IF;
  IF v_later > 0 OR g.ordered OR g.sticky THEN
    SELECT e.single, e.due_at INTO v_single, v_due FROM mq_exception e
     WHERE e.group_id = p_group AND e.status = 'L' AND e.due_at <= v_now AND e.due_at >= mq_due_from(v_from, v_now) ORDER BY e.due_at, e.msg_id LIMIT 1;
  END IF;
  IF v_due IS NOT NULL THEN
    v_token := nextval('mq_token_seq');
    RETURN QUERY
      WITH due AS (SELECT e.ctid AS place, e.msg_id, e.topic_id FROM mq_exception e WHERE e.group_id = p_group AND e.status = 'L' AND e.due_at <= v_now AND e.due_at >= v_due
                    AND (v_single OR NOT e.single) AND (v_turn IS NULL OR e.msg_id = ANY (v_turn)) ORDER BY e.due_at, e.msg_id LIMIT CASE WHEN v_single THEN 1 ELSE p_limit END),
           m AS MATERIALIZED (SELECT x.*, due.place, sum(octet_length(x.body)) OVER (ORDER BY x.id) - octet_length(x.body) AS before
                   FROM due CROSS JOIN LATERAL (SELECT mm.* FROM mq_message mm WHERE mm.topic_id = due.topic_id AND mm.id = due.msg_id LIMIT 1) x),
           u AS (UPDATE mq_exception e SET status = 'P', token = v_token, lease_until = v_until, pulled_at = v_now, consumer = p_consumer
                   FROM m WHERE e.ctid = m.place AND m.before < p_bytes RETURNING e.msg_id, e.attempts)
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
    FOR r IN SELECT e.topic_id, count(*) AS k FROM mq_exception e WHERE e.group_id = p_group AND e.token = v_token AND e.status = 'P' GROUP BY 1 LOOP
      UPDATE mq_cursor q SET later = q.later - r.k, processing = q.processing + r.k, due_from = v_due, uses = (q.uses + 1) % 32, rev = q.rev + (q.uses = 31)::int
       WHERE q.group_id = p_group AND q.topic_id = r.topic_id
         AND q.rev = (SELECT y.rev FROM mq_cursor y WHERE y.group_id = p_group AND y.topic_id = r.topic_id ORDER BY y.rev DESC LIMIT 1);
    END LOOP;
    v_left := CASE WHEN v_single THEN 0 ELSE p_limit - v_k END;
  END IF;

  SELECT h.closed_id INTO v_closed FROM mq_horizon h ORDER BY h.rev DESC LIMIT 1;
  IF v_left > 0 THEN
  FOR c IN SELECT * FROM mq_cursors(p_group) q WHERE q.active AND q.pos < v_closed ORDER BY random() LOOP   -- no topic starves another
    EXIT WHEN v_left <= 0 OR v_bytes <= 0;   -- the limit of bytes is of the whole pull, retries and all topics
    v_n := 0;
    IF c.ordering > 0 OR g.sticky THEN
      IF g.sticky THEN
        SELECT * INTO o FROM mq_sticky_look(c, w.slots, w.busy, v_left, v_closed, v_bytes);
        v_stuck := v_stuck OR o.stuck;
      ELSE
        SELECT l.*, NULL::smallint[] AS hslots INTO o FROM mq_order_look(c, v_left, v_closed, v_bytes) l;
      END IF;
      IF o.held IS NOT NULL THEN PERFORM mq_hold(p_group, c.topic_id, o.held, o.hkeys, o.hslots, v_now); END IF;
      IF o.hi IS NOT NULL THEN
        v_token := coalesce(v_token, nextval('mq_token_seq'));
        INSERT INTO mq_lease (group_id, token, topic_id, lo, hi, lease_until, pulled_at, n, left_n, alone, tags, consumer, okeys, acked)
          VALUES (p_group, v_token, c.topic_id, c.pos, o.hi, v_until, v_now, cardinality(o.okeys), o.taken, p_limit = 1, c.tags, p_consumer, o.okeys, o.acked);
        RETURN QUERY SELECT 'M'::"char", m.id, m.topic_id, m.origin_id, m.sent_at, 1, m.tag, m.key, m.skey, m.headers, m.body, NULL::text
          FROM mq_message m WHERE m.topic_id = c.topic_id AND m.id > c.pos AND m.id <= o.hi AND (c.tags IS NULL OR mq_has_tag(m.tag, c.tags))
           AND (o.held IS NULL OR m.id <> ALL (o.held)) ORDER BY m.id;
        v_k := v_k + o.taken; v_left := v_left - o.taken; v_bytes := v_bytes - o.bytes;
      ELSE
        v_more := v_more OR o.held IS NOT NULL OR o.seen IS NOT NULL;
      END IF;
      UPDATE mq_cursor q SET pos = coalesce(o.hi, o.held[cardinality(o.held)], o.seen), processing = q.processing + o.taken,
             held = q.held + coalesce(cardinality(o.held), 0), uses = (q.uses + 1) % 32, rev = q.rev + (q.uses = 31)::int
       WHERE q.group_id = p_group AND q.topic_id = c.topic_id AND q.rev = c.rev AND coalesce(o.hi, o.held[cardinality(o.held)], o.seen) IS NOT NULL;
      CONTINUE;
    END IF;
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
        IF mq_has_tag(r.tag, c.tags) THEN
          v_n := v_n + 1; v_hi := r.id; v_bytes := v_bytes - r.len;
          EXIT WHEN v_n >= v_left OR v_bytes <= 0;
        END IF;
        v_seen := r.id;
      END LOOP;
      IF v_n = 0 AND v_scanned >= 500 THEN
        UPDATE mq_cursor q SET pos = v_seen, uses = (q.uses + 1) % 32, rev = q.rev + (q.uses = 31)::int WHERE q.group_id = p_group AND q.topic_id = c.topic_id AND q.rev = c.rev;
        v_more := v_more OR v_scanned >= p_scan;
      END IF;
    END IF;
    IF v_n > 0 THEN
      v_token := coalesce(v_token, nextval('mq_token_seq'));
      UPDATE mq_cursor q SET pos = v_hi, processing = q.processing + v_n, uses = (q.uses + 1) % 32, rev = q.rev + (q.uses = 31)::int
       WHERE q.group_id = p_group AND q.topic_id = c.topic_id AND q.rev = c.rev;
      INSERT INTO mq_lease (group_id, token, topic_id, lo, hi, lease_until, pulled_at, n, left_n, alone, tags, consumer)
        VALUES (p_group, v_token, c.topic_id, c.pos, v_hi, v_until, v_now, v_n, v_n, p_limit = 1, c.tags, p_consumer);
      RETURN QUERY SELECT 'M'::"char", m.id, m.topic_id, m.origin_id, m.sent_at, 1, m.tag, m.key, m.skey, m.headers, m.body, NULL::text
        FROM mq_message m WHERE m.topic_id = c.topic_id AND m.id > c.pos AND m.id <= v_hi AND (c.tags IS NULL OR mq_has_tag(m.tag, c.tags)) ORDER BY m.id;
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
  RETURN NEXT ROW('H', CASE WHEN v_k > 0 THEN v_token END, v_worker, NULL, v_until,
                  CASE WHEN v_more AND v_k = 0 THEN 2 WHEN v_left > 0 AND v_closed < (SELECT last_value FROM mq_id_seq) THEN 1 ELSE 0 END,
                  NULL, NULL, NULL, NULL, NULL,
                  CASE WHEN v_k > 0 THEN NULL WHEN v_stuck THEN 'parked' WHEN EXISTS (SELECT FROM mq_cursors(p_group) q WHERE q.active) THEN 'empty' ELSE 'not_subscribed' END)::mq_row;
END $$;

-- Settle: ONE verb for every outcome of a lease, fresh and retried messages alike. Ids are distinct and sorted (the service sees to
-- it); statuses: S succeeded, X failed, L later, D dead. Outcomes that simply succeeded return no row. The history has the position's era.
CREATE OR REPLACE FUNCTION mq_settle(p_group bigint, p_token bigint, p_ids bigint[], p_status "char"[], p_delay_ms bigint[], p_error text[], p_async boolean)
RETURNS SETOF mq_row LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_sort = off SET enable_bitmapscan = off SET enable_seqscan = off AS $$
DECLARE g mq_group; l mq_lease; c record; v_now timestamptz; v_ids bigint[]; v_all boolean := p_status IS NULL; v_live boolean := false;
        v_matched bigint[] := '{}'; v_acked varbit; v_done int; s_ok int; s_later int; s_dead int; s_failed int; v_active boolean; v_era int; r record;
        v_held bigint; v_keys bigint[] := '{}'; v_broken bigint[] := '{}'; v_from bigint[] := '{}'; s_held int; v_topics bigint[] := '{}'; v_became "char"[] := '{}';
        v_hit bigint[]; v_dues timestamptz[]; v_set int[]; v_fine int[]; v_pos int;
BEGIN
  SELECT * INTO g FROM mq_group q WHERE q.group_id = p_group FOR NO KEY UPDATE;
  IF p_async THEN PERFORM set_config('synchronous_commit', 'off', true); END IF;   -- losing an ack only redelivers
  v_now := clock_timestamp();
  IF v_all THEN p_status := array_fill('S'::"char", ARRAY[cardinality(p_ids)]); END IF;

  FOR l IN SELECT * FROM mq_lease q WHERE q.group_id = p_group AND q.token = p_token ORDER BY q.topic_id LOOP
    CONTINUE WHEN l.lease_until <= v_now;   -- not in the statement: an index on it would lead through all leases that have ended
    v_live := true;
    -- the messages of this lease in their order: the same rows as at the pull, since the log is append-only and (lo, hi] closed
    v_ids := ARRAY(SELECT m.id FROM mq_message m WHERE m.topic_id = l.topic_id AND m.id > l.lo AND m.id <= l.hi
                     AND (l.tags IS NULL OR mq_has_tag(m.tag, l.tags)) ORDER BY m.id);
    IF cardinality(v_ids) <> l.n THEN   -- somebody went round the horizon: say so instead of settling the wrong ones
      RAISE EXCEPTION 'the log has changed inside a lease' USING ERRCODE = 'data_corrupted';
    END IF;
    IF v_all AND l.acked IS NULL AND v_ids = p_ids THEN   -- the whole lease succeeded
      DELETE FROM mq_lease q WHERE q.group_id = p_group AND q.token = p_token AND q.topic_id = l.topic_id AND q.lane = l.lane;
      UPDATE mq_cursor q SET processing = q.processing - l.n, succeeded = q.succeeded + l.n, uses = (q.uses + 1) % 32, rev = q.rev + (q.uses = 31)::int
       WHERE q.group_id = p_group AND q.topic_id = l.topic_id AND q.rev = (SELECT y.rev FROM mq_cursor y WHERE y.group_id = p_group AND y.topic_id = l.topic_id ORDER BY y.rev DESC LIMIT 1)
        RETURNING q.era, q.held INTO v_era, v_held;
      INSERT INTO mq_history (group_id, topic_id, lo, hi, token, pulled_at, settled_at, n, attempts, retried, era, consumer)
        VALUES (p_group, l.topic_id, l.lo, l.hi, p_token, l.pulled_at, v_now, l.n, 1, false, v_era, l.consumer);
      IF v_held > 0 THEN PERFORM mq_release(p_group, l.okeys, v_now); END IF;
      RETURN;
    END IF;
    SELECT q.active, q.era INTO v_active, v_era FROM mq_cursor q WHERE q.group_id = p_group AND q.topic_id = l.topic_id ORDER BY q.rev DESC LIMIT 1;
    v_acked := coalesce(l.acked, repeat('0', 2 * l.n)::varbit);   -- two bits a message: settled, succeeded
    s_ok := 0; s_later := 0; s_dead := 0; s_failed := 0; s_held := 0; v_broken := '{}'; v_from := '{}';
    IF l.okeys IS NULL THEN   -- no message waits for another: all at once
      WITH told AS MATERIALIZED (
        SELECT s.id, s.pos, get_bit(v_acked, 2 * s.pos::int - 2) = 1 AS before, o.status = 'S' AS ok, coalesce(b.status, 'S') AS status, b.attempts, b.due_at, o.error
          FROM unnest(v_ids) WITH ORDINALITY s(id, pos) JOIN unnest(p_ids, p_status, p_delay_ms, p_error) o(id, status, delay, error) ON o.id = s.id
          LEFT JOIN LATERAL mq_outcome(g, v_active, o.status, 0, o.delay, v_now, false) b ON o.status <> 'S'),
      kept AS (
        INSERT INTO mq_exception (group_id, msg_id, topic_id, token, first_at, last_at, pulled_at, consumer, attempts, lane, status, due_at, error)
          SELECT p_group, d.id, l.topic_id, p_token, v_now, v_now, l.pulled_at, l.consumer, d.attempts, l.lane, d.status, d.due_at, d.error
            FROM told d WHERE NOT d.before AND NOT d.ok)
      SELECT coalesce(array_agg(d.id), '{}'), coalesce(array_agg(CASE WHEN d.before THEN ' ' ELSE d.status END::"char"), '{}'), coalesce(array_agg(d.due_at), '{}'),
             count(*) FILTER (WHERE NOT d.before AND d.ok), count(*) FILTER (WHERE NOT d.before AND d.status = 'L'),
             count(*) FILTER (WHERE NOT d.before AND d.status = 'D'), count(*) FILTER (WHERE NOT d.before AND d.status = 'F'),
             coalesce(array_agg(d.pos::int) FILTER (WHERE NOT d.before), '{}'), coalesce(array_agg(d.pos::int) FILTER (WHERE NOT d.before AND d.ok), '{}')
        INTO v_hit, v_became, v_dues, s_ok, s_later, s_dead, s_failed, v_set, v_fine FROM told d;
      FOREACH v_pos IN ARRAY v_set LOOP v_acked := set_bit(v_acked, 2 * v_pos - 2, 1); END LOOP;
      FOREACH v_pos IN ARRAY v_fine LOOP v_acked := set_bit(v_acked, 2 * v_pos - 1, 1); END LOOP;
      v_matched := v_matched || v_hit;
      RETURN QUERY SELECT 'S'::"char", u.id, NULL::bigint, NULL::bigint, u.due, NULL::int, CASE WHEN u.status <> ' ' THEN u.status::text END, NULL::text, NULL::text, NULL::text,
          NULL::bytea, CASE WHEN u.status = ' ' THEN 'already_settled' END
        FROM unnest(v_hit, v_became, v_dues) u(id, status, due) WHERE u.status <> 'S';
    ELSE
      FOR r IN SELECT s.id, s.pos::int - 1 AS pos, l.okeys[s.pos] AS okey, o.status, o.delay, o.error FROM unnest(v_ids) WITH ORDINALITY s(id, pos)
                 JOIN unnest(p_ids, p_status, p_delay_ms, p_error) o(id, status, delay, error) ON o.id = s.id ORDER BY s.pos LOOP
        v_matched := v_matched || r.id;
        IF get_bit(v_acked, 2 * r.pos) = 1 THEN
          RETURN NEXT ROW('S', r.id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, CASE WHEN l.okeys IS NOT NULL AND EXISTS (
            SELECT FROM mq_exception e WHERE e.group_id = p_group AND e.msg_id = r.id AND e.status = 'B' AND e.slot IS NULL) THEN 'held_back' ELSE 'already_settled' END)::mq_row;
          CONTINUE;
        END IF;
        IF r.okey = ANY (v_broken) THEN   -- one before it of its key goes again, and it after that one
          RETURN NEXT ROW('S', r.id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'held_back')::mq_row;
          CONTINUE;
        END IF;
        v_acked := set_bit(v_acked, 2 * r.pos, 1);
        IF r.status = 'S' THEN
          v_acked := set_bit(v_acked, 2 * r.pos + 1, 1); s_ok := s_ok + 1;
        ELSE
          INSERT INTO mq_exception AS e (group_id, msg_id, topic_id, token, first_at, last_at, pulled_at, consumer, attempts, lane, status, due_at, error, okey)
            SELECT p_group, r.id, l.topic_id, p_token, v_now, v_now, l.pulled_at, l.consumer, o.attempts, l.lane, o.status, o.due_at, r.error, r.okey
              FROM mq_outcome(g, v_active, r.status, 0, r.delay, v_now, r.okey IS NOT NULL) o
            RETURNING e.status, e.due_at INTO c;
          IF c.status = 'L' AND r.okey IS NOT NULL THEN v_broken := v_broken || r.okey; v_from := v_from || r.id; END IF;
          s_later := s_later + (c.status = 'L')::int; s_dead := s_dead + (c.status = 'D')::int; s_failed := s_failed + (c.status = 'F')::int;
          RETURN NEXT ROW('S', r.id, NULL, NULL, c.due_at, NULL, c.status::text, NULL, NULL, NULL, NULL, NULL)::mq_row;
        END IF;
      END LOOP;
    END IF;
    IF v_broken <> '{}' THEN   -- what comes behind a message that goes again goes behind it again, also if it has not been settled yet
      FOR r IN SELECT s.id, s.pos::int - 1 AS pos, b.okey FROM unnest(v_ids) WITH ORDINALITY s(id, pos)
                 JOIN unnest(v_broken, v_from) b(okey, id) ON b.okey = l.okeys[s.pos] AND s.id > b.id ORDER BY s.pos LOOP
        IF get_bit(v_acked, 2 * r.pos) = 0 THEN
          v_acked := set_bit(v_acked, 2 * r.pos, 1); s_held := s_held + 1;
          INSERT INTO mq_exception (group_id, msg_id, topic_id, first_at, last_at, attempts, lane, status, okey)
            VALUES (p_group, r.id, l.topic_id, v_now, v_now, 0, l.lane, 'B', r.okey);
        END IF;
      END LOOP;
    END IF;
    v_done := s_ok + s_later + s_dead + s_failed + s_held;
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
           dead = q.dead + s_dead, failed = q.failed + s_failed, held = q.held + s_held, uses = (q.uses + 1) % 32, rev = q.rev + (q.uses = 31)::int
     WHERE q.group_id = p_group AND q.topic_id = l.topic_id AND q.rev = (SELECT y.rev FROM mq_cursor y WHERE y.group_id = p_group AND y.topic_id = l.topic_id ORDER BY y.rev DESC LIMIT 1) RETURNING q.held INTO v_held;
    IF v_held > 0 THEN v_keys := v_keys || l.okeys; END IF;
  END LOOP;

  IF cardinality(v_matched) < cardinality(p_ids) THEN
    v_broken := '{}'; v_from := '{}';
    -- the retried messages of the same lease
    IF NOT g.ordered AND g.dealt = 0 THEN
      WITH told AS MATERIALIZED (
        SELECT e.ctid AS place, e.msg_id AS id, e.topic_id, e.attempts AS tries, e.pulled_at, e.consumer, o.status = 'S' AS ok, coalesce(b.status, 'S') AS status,
               b.attempts, b.due_at, o.error, q.era
          FROM mq_exception e JOIN unnest(p_ids, p_status, p_delay_ms, p_error) o(id, status, delay, error) ON o.id = e.msg_id
          JOIN mq_cursors(p_group) q ON q.topic_id = e.topic_id
          LEFT JOIN LATERAL mq_outcome(g, q.active, o.status, e.attempts, o.delay, v_now, false) b ON o.status <> 'S'
         WHERE e.group_id = p_group AND e.token = p_token AND e.status = 'P' AND coalesce(e.lease_until, v_now) > v_now),
      done AS (DELETE FROM mq_exception e USING told d WHERE e.ctid = d.place AND d.ok),
      had AS (
        INSERT INTO mq_history (group_id, topic_id, lo, hi, token, pulled_at, settled_at, n, attempts, retried, era, consumer)
          SELECT p_group, d.topic_id, d.id - 1, d.id, p_token, d.pulled_at, v_now, 1, d.tries + 1, true, d.era, d.consumer FROM told d WHERE d.ok),
      kept AS (
        UPDATE mq_exception e SET status = d.status, attempts = d.attempts, due_at = d.due_at, error = d.error, last_at = v_now, lease_until = NULL, single = false
          FROM told d WHERE e.ctid = d.place AND NOT d.ok)
      SELECT coalesce(array_agg(d.id), '{}'), coalesce(array_agg(d.status::"char"), '{}'), coalesce(array_agg(d.due_at), '{}'), coalesce(array_agg(d.topic_id), '{}')
        INTO v_hit, v_became, v_dues, v_topics FROM told d;
      v_live := v_live OR v_hit <> '{}';
      v_matched := v_matched || v_hit;
      RETURN QUERY SELECT 'S'::"char", u.id, NULL::bigint, NULL::bigint, u.due, NULL::int, u.status::text, NULL::text, NULL::text, NULL::text, NULL::bytea, NULL::text
        FROM unnest(v_hit, v_became, v_dues) u(id, status, due) WHERE u.status <> 'S';
    ELSE
      v_topics := '{}'; v_became := '{}';
      FOR r IN SELECT * FROM (SELECT e.msg_id AS id, e.topic_id, e.attempts, e.pulled_at, e.consumer, e.okey, o.status, o.delay, o.error, q.active, q.era, q.held
                 FROM mq_exception e JOIN unnest(p_ids, p_status, p_delay_ms, p_error) o(id, status, delay, error) ON o.id = e.msg_id
                 JOIN mq_cursors(p_group) q ON q.topic_id = e.topic_id
                WHERE e.group_id = p_group AND e.token = p_token AND e.status = 'P' AND coalesce(e.lease_until, v_now) > v_now OFFSET 0) x ORDER BY x.id LOOP
        v_live := true;
        v_matched := v_matched || r.id;
        IF r.okey = ANY (v_broken) THEN
          RETURN NEXT ROW('S', r.id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'held_back')::mq_row;
          CONTINUE;
        END IF;
        IF r.okey IS NOT NULL AND r.held > 0 THEN v_keys := v_keys || r.okey; END IF;
        IF r.status = 'S' THEN
          DELETE FROM mq_exception e WHERE e.group_id = p_group AND e.msg_id = r.id;
          INSERT INTO mq_history (group_id, topic_id, lo, hi, token, pulled_at, settled_at, n, attempts, retried, era, consumer)
            VALUES (p_group, r.topic_id, r.id - 1, r.id, p_token, r.pulled_at, v_now, 1, r.attempts + 1, true, r.era, r.consumer);
          v_topics := v_topics || r.topic_id; v_became := v_became || 'S'::"char";
        ELSE
          UPDATE mq_exception e SET status = o.status, attempts = o.attempts, due_at = o.due_at, error = r.error, last_at = v_now, lease_until = NULL, single = false,
                 first_at = CASE WHEN (e.okey IS NOT NULL OR e.slot IS NOT NULL) AND e.attempts = 0 AND e.error IS NULL THEN v_now ELSE e.first_at END
            FROM mq_outcome(g, r.active, r.status, r.attempts, r.delay, v_now, r.okey IS NOT NULL) o
           WHERE e.group_id = p_group AND e.msg_id = r.id RETURNING e.status, e.due_at INTO c;
          v_topics := v_topics || r.topic_id; v_became := v_became || c.status;
          IF c.status = 'L' AND r.okey IS NOT NULL THEN v_broken := v_broken || r.okey; v_from := v_from || r.id; END IF;
          RETURN NEXT ROW('S', r.id, NULL, NULL, c.due_at, NULL, c.status::text, NULL, NULL, NULL, NULL, NULL)::mq_row;
        END IF;
      END LOOP;
    END IF;
    FOR r IN SELECT u.topic_id, count(*) AS n, count(*) FILTER (WHERE u.status = 'S') AS s, count(*) FILTER (WHERE u.status = 'L') AS l,
                    count(*) FILTER (WHERE u.status = 'D') AS d, count(*) FILTER (WHERE u.status = 'F') AS f
               FROM unnest(v_topics, v_became) u(topic_id, status) GROUP BY 1 LOOP
      UPDATE mq_cursor q SET processing = q.processing - r.n, succeeded = q.succeeded + r.s, later = q.later + r.l, dead = q.dead + r.d, failed = q.failed + r.f,
             uses = (q.uses + 1) % 32, rev = q.rev + (q.uses = 31)::int
       WHERE q.group_id = p_group AND q.topic_id = r.topic_id
         AND q.rev = (SELECT y.rev FROM mq_cursor y WHERE y.group_id = p_group AND y.topic_id = r.topic_id ORDER BY y.rev DESC LIMIT 1);
    END LOOP;
    IF v_broken <> '{}' THEN
      WITH back AS (
        UPDATE mq_exception e SET status = 'B', token = NULL, lease_until = NULL, due_at = NULL FROM unnest(v_broken, v_from) b(okey, id)
         WHERE e.group_id = p_group AND e.token = p_token AND e.status = 'P' AND e.okey = b.okey AND e.msg_id > b.id RETURNING e.topic_id)
      UPDATE mq_cursor q SET processing = q.processing - x.n, held = q.held + x.n FROM (SELECT topic_id, count(*) AS n FROM back GROUP BY 1) x
       WHERE q.group_id = p_group AND q.topic_id = x.topic_id;
    END IF;
  END IF;
  IF v_keys <> '{}' THEN PERFORM mq_release(p_group, v_keys, v_now); END IF;

  -- The rest gets a problem each, never silence.
  IF cardinality(v_matched) < cardinality(p_ids) THEN
    v_live := v_live OR EXISTS (SELECT FROM mq_exception e WHERE e.group_id = p_group AND e.token = p_token AND e.status = 'P' AND coalesce(e.lease_until, v_now) > v_now);
    RETURN QUERY SELECT 'S'::"char", o.id, NULL::bigint, NULL::bigint, NULL::timestamptz, NULL::int, NULL::text, NULL::text, NULL::text, NULL::text, NULL::bytea,
      CASE WHEN EXISTS (SELECT FROM mq_exception e WHERE e.group_id = p_group AND e.msg_id = o.id AND e.status = 'B' AND e.slot IS NULL) THEN 'held_back'
           WHEN EXISTS (SELECT FROM mq_exception e WHERE e.group_id = p_group AND e.msg_id = o.id AND e.token = p_token AND e.status <> 'P')
             OR EXISTS (SELECT FROM mq_cursor q JOIN mq_history h ON h.group_id = q.group_id AND h.topic_id = q.topic_id
                         WHERE q.group_id = p_group AND h.retried AND h.hi = o.id AND h.token = p_token)
             OR EXISTS (SELECT FROM mq_cursor q CROSS JOIN LATERAL (
                          SELECT * FROM mq_history h WHERE h.group_id = q.group_id AND h.topic_id = q.topic_id AND NOT h.retried AND h.hi >= o.id
                             AND h.era = q.era ORDER BY h.hi LIMIT 1) h
                         JOIN mq_message m ON m.topic_id = q.topic_id AND m.id = o.id
                         WHERE q.group_id = p_group AND h.token = p_token AND h.lo < o.id AND NOT h.expired AND (q.tags IS NULL OR mq_has_tag(m.tag, q.tags)))
           THEN 'already_settled' WHEN v_live THEN 'not_in_lease' ELSE 'lease_expired' END
      FROM unnest(p_ids) o(id) WHERE o.id <> ALL (v_matched);
  END IF;
END $$;

-- What becomes of a message that did not succeed. X failed: a counted attempt, dead at the limit, or its key stops there (p_keyed, where the
-- group wants that). L later: not counted. D: rejected. Where the group is no longer subscribed nothing is retried: F.
CREATE OR REPLACE FUNCTION mq_outcome(g mq_group, p_active boolean, p_status "char", p_attempts int, p_delay_ms bigint, p_now timestamptz, p_keyed boolean)
RETURNS TABLE (status "char", attempts int, due_at timestamptz) STABLE LANGUAGE sql AS $$
  SELECT s.status::"char", a.attempts, CASE WHEN s.status = 'L' AND NOT a.stops THEN p_now + coalesce(p_delay_ms * interval '1 ms', mq_backoff(g.backoff_ms, a.attempts)) END
    FROM (SELECT n.attempts, n.spent, n.spent AND g.stop_key AND p_keyed AND p_active AS stops FROM (
            SELECT p_attempts + (p_status <> 'L')::int AS attempts, p_status = 'X' AND p_attempts + 1 >= g.max_attempts AS spent) n) a
   CROSS JOIN LATERAL (SELECT CASE WHEN a.stops THEN 'L' WHEN p_status = 'D' OR a.spent THEN 'D' WHEN NOT p_active THEN 'F' ELSE 'L' END AS status) s $$;

-- Settle and pull the next in one commit: the SDK's normal way.
CREATE OR REPLACE FUNCTION mq_next(p_group bigint, p_token bigint, p_ids bigint[], p_status "char"[], p_delay_ms bigint[], p_error text[],
                        p_limit int, p_visibility interval, p_consumer text, p_async boolean) RETURNS SETOF mq_row LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  IF p_token IS NOT NULL THEN RETURN QUERY SELECT * FROM mq_settle(p_group, p_token, p_ids, p_status, p_delay_ms, p_error, p_async); END IF;
  RETURN QUERY SELECT * FROM mq_pull(p_group, p_limit, p_visibility, p_consumer, p_async);
END $$;

-- Leases of one group that ran out. Only a message that was handed out alone is charged with an attempt; the others get a turn alone.
CREATE OR REPLACE FUNCTION mq_expire(p_group bigint, p_limit int DEFAULT 100) RETURNS int LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE g mq_group; l mq_lease; r record; c record; v_now timestamptz; v_ids bigint[]; v_active boolean; k int := 0; v_era int; v_gone int; v_lost int; v_keyed boolean; v_n int; v_keys bigint[] := '{}';
BEGIN
  SELECT * INTO g FROM mq_group q WHERE q.group_id = p_group FOR NO KEY UPDATE;
  IF NOT FOUND THEN RETURN 0; END IF;
  v_now := clock_timestamp();
  FOR l IN SELECT * FROM mq_lease q WHERE q.group_id = p_group AND q.lease_until <= v_now ORDER BY q.lease_until LIMIT p_limit LOOP
    -- Whatever of a lease is gone is its beginning: the oldest partitions go first.
    SELECT greatest(l.n - count(*), 0) INTO v_gone FROM mq_message m
     WHERE m.topic_id = l.topic_id AND m.id > l.lo AND m.id <= l.hi AND (l.tags IS NULL OR mq_has_tag(m.tag, l.tags));
    v_ids := ARRAY(SELECT s.id FROM (SELECT m.id, row_number() OVER (ORDER BY m.id)::int - 1 + v_gone AS pos FROM mq_message m
                     WHERE m.topic_id = l.topic_id AND m.id > l.lo AND m.id <= l.hi AND (l.tags IS NULL OR mq_has_tag(m.tag, l.tags))) s
                   WHERE l.acked IS NULL OR get_bit(l.acked, 2 * s.pos) = 0);
    v_lost := greatest(l.left_n - cardinality(v_ids), 0);
    SELECT q.active, q.era INTO v_active, v_era FROM mq_cursor q WHERE q.group_id = p_group AND q.topic_id = l.topic_id;
    v_keyed := cardinality(array_remove(l.okeys, NULL)) > 0;
    SELECT * INTO c FROM mq_outcome(g, v_active, (CASE WHEN l.alone THEN 'X' ELSE 'L' END)::"char", 0, CASE WHEN l.alone THEN NULL ELSE 0 END, v_now, v_keyed);
    v_n := cardinality(v_ids);   -- those that the outcome is for
    IF l.okeys IS NULL THEN
      INSERT INTO mq_exception (group_id, msg_id, topic_id, first_at, last_at, pulled_at, consumer, attempts, lane, status, due_at, single, error)
        SELECT p_group, u.id, l.topic_id, v_now, v_now, l.pulled_at, l.consumer, c.attempts, l.lane, c.status, c.due_at, true, 'lease expired' FROM unnest(v_ids) u(id);
    ELSE   -- of each key the first one; the others behind it
      INSERT INTO mq_exception (group_id, msg_id, topic_id, first_at, last_at, pulled_at, consumer, attempts, lane, status, due_at, single, error, okey)
        SELECT p_group, u.id, l.topic_id, v_now, v_now, l.pulled_at, l.consumer, CASE WHEN u.turn THEN c.attempts ELSE 0 END, l.lane,
               CASE WHEN u.turn THEN c.status ELSE 'B' END, CASE WHEN u.turn THEN c.due_at END, true, CASE WHEN u.turn THEN 'lease expired' END, u.okey
          FROM (SELECT s.id, s.okey, s.okey IS NULL OR c.status = 'F' OR row_number() OVER (PARTITION BY s.okey ORDER BY s.id) = 1 AS turn
                  FROM (SELECT m.id, l.okeys[row_number() OVER (ORDER BY m.id)::int + v_gone] AS okey FROM mq_message m
                         WHERE m.topic_id = l.topic_id AND m.id > l.lo AND m.id <= l.hi AND (l.tags IS NULL OR mq_has_tag(m.tag, l.tags))) s
                 WHERE s.id = ANY (v_ids)) u;
      SELECT count(*) FILTER (WHERE e.status <> 'B') INTO v_n FROM mq_exception e WHERE e.group_id = p_group AND e.msg_id = ANY (v_ids);
      v_keys := v_keys || l.okeys;
    END IF;
    DELETE FROM mq_lease q WHERE q.group_id = p_group AND q.token = l.token AND q.topic_id = l.topic_id AND q.lane = l.lane;
    INSERT INTO mq_history (group_id, topic_id, lo, hi, token, pulled_at, settled_at, n, attempts, retried, expired, era, acked, consumer)
      VALUES (p_group, l.topic_id, l.lo, l.hi, l.token, l.pulled_at, v_now, l.n, 1, false, true, v_era, coalesce(l.acked, repeat('0', 2 * l.n)::varbit), l.consumer);
    UPDATE mq_cursor q SET processing = q.processing - cardinality(v_ids) - v_lost,
           later = q.later + CASE WHEN c.status = 'L' THEN v_n ELSE 0 END,
           dead = q.dead + CASE WHEN c.status = 'D' THEN v_n ELSE 0 END,
           failed = q.failed + v_lost + CASE WHEN c.status = 'F' THEN v_n ELSE 0 END,
           held = q.held + cardinality(v_ids) - v_n
     WHERE q.group_id = p_group AND q.topic_id = l.topic_id;
    k := k + cardinality(v_ids) + v_lost;
  END LOOP;
  FOR r IN SELECT e.msg_id, e.topic_id, e.attempts, e.single, e.okey, q.active FROM mq_exception e JOIN mq_cursor q ON q.group_id = e.group_id AND q.topic_id = e.topic_id
            WHERE e.group_id = p_group AND e.status = 'P' AND e.lease_until <= v_now ORDER BY e.lease_until, e.msg_id LIMIT p_limit * 10 LOOP
    IF r.okey IS NOT NULL THEN
      v_keys := v_keys || r.okey;
      IF r.active AND EXISTS (SELECT FROM mq_exception b WHERE b.group_id = p_group AND b.okey = r.okey AND b.status IN ('L', 'P', 'B') AND b.msg_id < r.msg_id) THEN
        UPDATE mq_exception e SET status = 'B', token = NULL, lease_until = NULL, due_at = NULL, single = true WHERE e.group_id = p_group AND e.msg_id = r.msg_id;
        UPDATE mq_cursor q SET processing = q.processing - 1, held = q.held + 1 WHERE q.group_id = p_group AND q.topic_id = r.topic_id;
        k := k + 1;
        CONTINUE;
      END IF;
    END IF;
    UPDATE mq_exception e SET status = o.status, attempts = o.attempts, due_at = o.due_at, token = NULL, lease_until = NULL, single = true, last_at = v_now,
           error = CASE WHEN e.error IS NULL OR e.error LIKE '%lease expired' THEN coalesce(e.error, 'lease expired') ELSE e.error || '; lease expired' END,
           first_at = CASE WHEN (e.okey IS NOT NULL OR e.slot IS NOT NULL) AND e.attempts = 0 AND e.error IS NULL THEN v_now ELSE e.first_at END
      FROM mq_outcome(g, r.active, (CASE WHEN r.single THEN 'X' ELSE 'L' END)::"char", r.attempts, CASE WHEN r.single THEN NULL ELSE 0 END, v_now, r.okey IS NOT NULL) o
     WHERE e.group_id = p_group AND e.msg_id = r.msg_id RETURNING e.status INTO c;
    UPDATE mq_cursor q SET processing = q.processing - 1, later = q.later + (c.status = 'L')::int, dead = q.dead + (c.status = 'D')::int,
           failed = q.failed + (c.status = 'F')::int WHERE q.group_id = p_group AND q.topic_id = r.topic_id;
    k := k + 1;
  END LOOP;
  IF v_keys <> '{}' THEN PERFORM mq_release(p_group, v_keys, v_now); END IF;
  RETURN k;
END $$;

-- The groups that have something expired: cheap when nothing has.
CREATE OR REPLACE FUNCTION mq_expired_groups() RETURNS SETOF bigint STABLE LANGUAGE sql AS $$
  SELECT group_id FROM mq_lease WHERE lease_until <= (SELECT clock_timestamp())   -- a subselect: an index is not used beside a volatile function
  UNION SELECT group_id FROM mq_exception WHERE status = 'P' AND lease_until <= (SELECT clock_timestamp()) $$;

-- Which of the waiting groups has something to pull (none at its ceiling has): asked by one connection per process on behalf of all
-- parked threads.
CREATE OR REPLACE FUNCTION mq_ready(p_groups bigint[]) RETURNS SETOF bigint VOLATILE LANGUAGE sql SET enable_sort = off AS $$
  SELECT g.group_id FROM mq_group g CROSS JOIN (SELECT closed_id FROM mq_horizon ORDER BY rev DESC LIMIT 1) h
   CROSS JOIN LATERAL (SELECT coalesce(sum(q.processing), 0) AS busy, max(q.due_from) AS due_from, clock_timestamp() AS now FROM mq_cursors(g.group_id) q) s
   WHERE g.group_id = ANY (p_groups)
     AND (g.suspended OR g.retired OR g.max_outstanding = 0 OR s.busy < g.max_outstanding)
     AND (g.suspended OR g.retired
       OR EXISTS (SELECT FROM mq_exception e WHERE e.group_id = g.group_id AND e.status = 'L' AND e.due_at <= s.now
                     AND e.due_at >= mq_due_from(s.due_from, s.now))
       OR EXISTS (SELECT FROM mq_cursors(g.group_id) c CROSS JOIN LATERAL (
                    SELECT count(*) AS n, bool_or(c.tags IS NULL OR mq_has_tag(x.tag, c.tags)) AS hit FROM (
                      SELECT m.tag FROM mq_message m WHERE m.topic_id = c.topic_id AND m.id > c.pos AND m.id <= h.closed_id
                       ORDER BY m.id LIMIT CASE WHEN c.tags IS NULL THEN 1 ELSE 500 END) x) m
                   WHERE c.active AND c.pos < h.closed_id AND c.ordering = 0
                     AND (m.hit OR m.n = 500))
       OR (g.ordered AND EXISTS (SELECT FROM mq_cursors(g.group_id) c CROSS JOIN LATERAL mq_order_look(c, 1, h.closed_id, 1) o
                   WHERE c.active AND c.pos < h.closed_id AND c.ordering > 0
                     AND (o.hi IS NOT NULL OR o.held IS NOT NULL OR o.seen IS NOT NULL)))) $$;   -- 500 without a hit: a pull moves the cursor on

-- Retries whose turn it is and whose message is gone become F, given up with that reason: they would be handed out as nothing for ever.
-- A pull calls it, with the group's row locked.
CREATE OR REPLACE FUNCTION mq_give_up_gone(p_group bigint, p_now timestamptz, p_limit int) RETURNS int LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE k int; v_keys bigint[];
BEGIN
  WITH due AS (SELECT e.msg_id, e.topic_id FROM mq_exception e WHERE e.group_id = p_group AND e.status = 'L' AND e.due_at <= p_now
                ORDER BY e.due_at, e.msg_id LIMIT p_limit),
       gone AS (UPDATE mq_exception e SET status = 'F', due_at = NULL, last_at = p_now, error = coalesce(e.error || '; ', '') || 'the message is gone'
                  FROM due WHERE e.group_id = p_group AND e.msg_id = due.msg_id
                   AND NOT EXISTS (SELECT FROM mq_message m WHERE m.topic_id = due.topic_id AND m.id = due.msg_id) RETURNING e.topic_id, e.okey),
       counted AS (UPDATE mq_cursor c SET later = c.later - x.n, failed = c.failed + x.n FROM (SELECT topic_id, count(*) AS n FROM gone GROUP BY 1) x
                    WHERE c.group_id = p_group AND c.topic_id = x.topic_id)
  SELECT count(*), array_agg(okey) FILTER (WHERE okey IS NOT NULL) INTO k, v_keys FROM gone;
  IF v_keys IS NOT NULL THEN PERFORM mq_release(p_group, v_keys, p_now); END IF;
  RETURN k;
END $$;

-- Extend the lease: a worker that needs longer keeps what it holds, fresh and retried messages alike. Never shorter than before, and no
-- longer than p_longest since the pull: a worker that hangs and still extends must not keep its messages for ever. NULL until and no
-- refusal: the lease has ended, or never was, or is another group's.
CREATE OR REPLACE FUNCTION mq_extend(p_group bigint, p_token bigint, p_visibility interval, p_longest interval, p_async boolean,
                          OUT until timestamptz, OUT refused boolean) LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE v_now timestamptz; v_pulled timestamptz; v_until timestamptz;
BEGIN
  refused := false;
  PERFORM FROM mq_group q WHERE q.group_id = p_group FOR NO KEY UPDATE;
  v_now := clock_timestamp();   -- after the wait for the lock
  SELECT min(x.pulled_at), max(x.lease_until) INTO v_pulled, v_until FROM (
    SELECT l.pulled_at, l.lease_until FROM mq_lease l WHERE l.group_id = p_group AND l.token = p_token AND l.lease_until > v_now
    UNION ALL
    SELECT e.pulled_at, e.lease_until FROM mq_exception e
     WHERE e.group_id = p_group AND e.token = p_token AND e.status = 'P' AND coalesce(e.lease_until, v_now) > v_now) x;
  IF v_until IS NULL THEN RETURN; END IF;
  IF v_now + p_visibility > v_pulled + p_longest THEN
    refused := true;
    until := v_until;
    RETURN;
  END IF;
  until := greatest(v_until, v_now + p_visibility);
  IF until = v_until THEN RETURN; END IF;
  IF p_async THEN PERFORM set_config('synchronous_commit', 'off', true); END IF;   -- losing it only redelivers
  UPDATE mq_lease l SET lease_until = until WHERE l.group_id = p_group AND l.token = p_token AND l.lease_until > v_now;
  UPDATE mq_exception e SET lease_until = until WHERE e.group_id = p_group AND e.token = p_token AND e.status = 'P' AND coalesce(e.lease_until, v_now) > v_now;
END $$;
