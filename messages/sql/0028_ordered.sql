-- Ordered topics: a message of an order key is handed out when all messages of that key before it are done, or in the same lease.
--
-- An order key is the hash of topic and sharding key, or the topic's id where the topic is ordered as a whole; NULL: in no order with
-- others. What the cursor passes although its key is busy becomes an exception B, held back: waiting to everybody, with a place to wait in.
-- Whether a message may go is judged where it is handed out, under the group's lock; mq_release only sees to it that nothing waits for ever.
SET LOCAL lock_timeout = '10s';   -- behind a long reader the migration fails, instead of making every pull wait behind it

ALTER TABLE mq_topic ADD COLUMN ordering smallint NOT NULL DEFAULT 0;      -- 0 none, 1 by sharding key, 2 the topic as a whole
ALTER TABLE mq_cursor ADD COLUMN ordering smallint NOT NULL DEFAULT 0;     -- as the topic's
ALTER TABLE mq_cursor ADD COLUMN held bigint NOT NULL DEFAULT 0;           -- held back: exceptions B
ALTER TABLE mq_group ADD COLUMN ordered boolean NOT NULL DEFAULT false;    -- one of its topics is
ALTER TABLE mq_group ADD COLUMN stop_key boolean NOT NULL DEFAULT false;   -- what is out of attempts waits for a person instead of going to the dead letters
ALTER TABLE mq_lease ADD COLUMN okeys bigint[];                            -- the order keys of its messages, NULL for those held back; NULL: not ordered
ALTER TABLE mq_exception ADD COLUMN okey bigint;
ALTER TABLE mq_exception DROP CONSTRAINT mq_exception_status_check;
ALTER TABLE mq_exception ADD CONSTRAINT mq_exception_status_check CHECK (status IN ('L', 'P', 'D', 'F', 'B')) NOT VALID;   -- old rows fit the old one
CREATE INDEX mq_exception_order ON mq_exception (group_id, okey, msg_id) WHERE okey IS NOT NULL AND status IN ('L', 'P', 'B');
CREATE INDEX mq_exception_stopped ON mq_exception (group_id, msg_id) WHERE status = 'L' AND due_at IS NULL;   -- keys that a person has to decide on

CREATE FUNCTION mq_okey(p_ordering smallint, p_topic bigint, p_skey text) RETURNS bigint IMMUTABLE LANGUAGE sql AS
$$ SELECT CASE p_ordering WHEN 1 THEN hashtextextended(p_skey, p_topic) WHEN 2 THEN p_topic END $$;

-- Whichever verb subscribes: the position knows its topic's order, and its group that it has one.
CREATE FUNCTION mq_cursor_ordering() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.ordering := coalesce((SELECT t.ordering FROM mq_topic t WHERE t.topic_id = NEW.topic_id), 0);
  IF NEW.ordering > 0 THEN UPDATE mq_group g SET ordered = true WHERE g.group_id = NEW.group_id AND NOT g.ordered; END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER ordering BEFORE INSERT ON mq_cursor FOR EACH ROW EXECUTE FUNCTION mq_cursor_ordering();

-- The order of a topic, said when it comes to the store; it is fixed from its first message on.
CREATE FUNCTION mq_topic_order(p_topic bigint, p_ordering smallint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM mq_group g WHERE g.group_id IN (SELECT c.group_id FROM mq_cursor c WHERE c.topic_id = p_topic) ORDER BY g.group_id FOR NO KEY UPDATE;
  INSERT INTO mq_topic (topic_id, ordering) VALUES (p_topic, p_ordering) ON CONFLICT (topic_id) DO UPDATE SET ordering = EXCLUDED.ordering;
  UPDATE mq_cursor c SET ordering = p_ordering WHERE c.topic_id = p_topic AND c.ordering <> p_ordering;
  UPDATE mq_group g SET ordered = true WHERE p_ordering > 0 AND NOT g.ordered AND g.group_id IN (SELECT c.group_id FROM mq_cursor c WHERE c.topic_id = p_topic);
END $$;

CREATE FUNCTION mq_group_policy(p_group bigint, p_stop_key boolean) RETURNS void LANGUAGE sql AS $$
  UPDATE mq_group SET stop_key = p_stop_key WHERE group_id = p_group $$;

-- The order keys of which a worker has a message in hand, leases that ran out included until they are taken back.
CREATE FUNCTION mq_in_hand(p_group bigint) RETURNS bigint[] STABLE LANGUAGE plpgsql AS $$
BEGIN
  RETURN (SELECT coalesce(array_agg(DISTINCT x.okey), '{}') FROM (
    SELECT u.okey FROM mq_lease l CROSS JOIN LATERAL unnest(l.okeys) WITH ORDINALITY u(okey, pos)
     WHERE l.group_id = p_group AND u.okey IS NOT NULL AND (l.acked IS NULL OR get_bit(l.acked, 2 * (u.pos::int - 1)) = 0)
    UNION ALL
    SELECT e.okey FROM mq_exception e WHERE e.group_id = p_group AND e.status = 'P' AND e.okey IS NOT NULL) x);
END $$;
ALTER FUNCTION mq_in_hand SET plan_cache_mode = force_generic_plan;   -- a function in plain SQL would be planned at each call

-- Keys may have become free: where the first message that is left of one is held back and nothing of it in hand, it is a retry that is due
-- now. Called by whatever takes a message out of the way of others; once too often does no harm.
CREATE FUNCTION mq_release(p_group bigint, p_okeys bigint[], p_now timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE v_ids bigint[]; v_keys bigint[]; v_hand bigint[];
BEGIN
  SELECT array_agg(f.msg_id), array_agg(k.okey) INTO v_ids, v_keys FROM (SELECT DISTINCT u.okey FROM unnest(p_okeys) u(okey) WHERE u.okey IS NOT NULL) k
   CROSS JOIN LATERAL (SELECT e.msg_id, e.status FROM mq_exception e WHERE e.group_id = p_group AND e.okey = k.okey AND e.status IN ('L', 'P', 'B')
                        ORDER BY e.msg_id LIMIT 1) f
   WHERE f.status = 'B';
  IF v_ids IS NULL THEN RETURN; END IF;
  v_hand := mq_in_hand(p_group);
  WITH go AS (
    UPDATE mq_exception e SET status = 'L', due_at = p_now
      FROM (SELECT u.id FROM unnest(v_ids, v_keys) u(id, okey) WHERE u.okey <> ALL (v_hand)) f
     WHERE e.group_id = p_group AND e.msg_id = f.id RETURNING e.topic_id)
  UPDATE mq_cursor c SET held = c.held - x.n, later = c.later + x.n FROM (SELECT topic_id, count(*) AS n FROM go GROUP BY 1) x
   WHERE c.group_id = p_group AND c.topic_id = x.topic_id;
END $$;
ALTER FUNCTION mq_release SET plan_cache_mode = force_generic_plan;

-- The same for all keys of a position that have a message held back.
CREATE FUNCTION mq_release_all(p_group bigint, p_topic bigint) RETURNS void LANGUAGE sql AS $$
  SELECT mq_release(p_group, array_agg(DISTINCT e.okey), clock_timestamp()) FROM mq_exception e
   WHERE e.group_id = p_group AND e.topic_id = p_topic AND e.okey IS NOT NULL AND e.status = 'B' $$;

-- Of the retries that are due the first ones that may go, at most p_limit. What is not its key's turn is held back again. Behind one that
-- was only held back and has never failed, the next ones of its key go with it, up to one that has to go alone or that a person decides on.
CREATE FUNCTION mq_order_due(p_group bigint, p_now timestamptz, p_limit int) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE v_hand bigint[]; v_ids bigint[]; v_not bigint[]; v_keys bigint[]; v_more bigint[]; v_single boolean;
BEGIN
  IF NOT EXISTS (SELECT FROM mq_exception e WHERE e.group_id = p_group AND e.status = 'L' AND e.due_at <= p_now) THEN RETURN '{}'; END IF;
  v_hand := mq_in_hand(p_group);
  LOOP
    SELECT array_agg(d.msg_id) FILTER (WHERE d.wait IS NOT TRUE), array_agg(d.msg_id) FILTER (WHERE d.wait), array_agg(d.okey) FILTER (WHERE d.wait),
           (array_agg(d.single ORDER BY d.due_at, d.msg_id) FILTER (WHERE d.wait IS NOT TRUE))[1]
      INTO v_ids, v_not, v_keys, v_single FROM (
      SELECT e.msg_id, e.okey, e.single, e.due_at, e.okey IS NOT NULL AND (e.okey = ANY (v_hand) OR EXISTS (
               SELECT FROM mq_exception b WHERE b.group_id = p_group AND b.okey = e.okey AND b.status IN ('L', 'P', 'B') AND b.msg_id < e.msg_id)) AS wait
        FROM mq_exception e WHERE e.group_id = p_group AND e.status = 'L' AND e.due_at <= p_now ORDER BY e.due_at, e.msg_id LIMIT p_limit) d;
    EXIT WHEN v_not IS NULL;
    WITH back AS (UPDATE mq_exception e SET status = 'B', due_at = NULL WHERE e.group_id = p_group AND e.msg_id = ANY (v_not) RETURNING e.topic_id)
    UPDATE mq_cursor c SET later = c.later - x.n, held = c.held + x.n FROM (SELECT topic_id, count(*) AS n FROM back GROUP BY 1) x
     WHERE c.group_id = p_group AND c.topic_id = x.topic_id;
    PERFORM mq_release(p_group, v_keys, p_now);
  END LOOP;
  IF cardinality(v_ids) < p_limit AND NOT v_single AND EXISTS (SELECT FROM mq_cursor c WHERE c.group_id = p_group AND c.held > 0) THEN
    WITH go AS (
      UPDATE mq_exception e SET status = 'L', due_at = p_now FROM (
        SELECT f.msg_id FROM mq_exception d
         CROSS JOIN LATERAL (SELECT min(b.msg_id) AS id FROM mq_exception b WHERE b.group_id = p_group AND b.okey = d.okey AND b.status IN ('L', 'P', 'B')
                                AND b.msg_id > d.msg_id AND (b.status <> 'B' OR b.single OR b.attempts > 0)) stop
         CROSS JOIN LATERAL (SELECT b.msg_id FROM mq_exception b WHERE b.group_id = p_group AND b.okey = d.okey AND b.status IN ('L', 'P', 'B')
                                AND b.msg_id > d.msg_id AND (stop.id IS NULL OR b.msg_id < stop.id) ORDER BY b.msg_id LIMIT p_limit) f
         WHERE d.group_id = p_group AND d.msg_id = ANY (v_ids) AND d.okey IS NOT NULL AND d.attempts = 0 AND d.error IS NULL AND NOT d.single
         LIMIT p_limit - cardinality(v_ids)) n
       WHERE e.group_id = p_group AND e.msg_id = n.msg_id RETURNING e.msg_id, e.topic_id),
    counted AS (
      UPDATE mq_cursor c SET held = c.held - x.n, later = c.later + x.n FROM (SELECT topic_id, count(*) AS n FROM go GROUP BY 1) x
       WHERE c.group_id = p_group AND c.topic_id = x.topic_id)
    SELECT array_agg(g.msg_id) INTO v_more FROM go g;
  END IF;
  RETURN coalesce(v_ids, '{}') || coalesce(v_more, '{}');
END $$;
ALTER FUNCTION mq_order_due SET plan_cache_mode = force_generic_plan;

-- What an ordered position would hand out next: of the next p_limit messages those whose key is free; if none is, the first free ones of the
-- next thousand, as far as the ceiling of 10,000 held back ones allows to pass the others. hi NULL: none.
-- `held` and `hkeys` are those to be held back up to hi; without a free one, those at the front that wait for a retry or a person: they
-- are passed even then, while one that waits for a worker's outcome is not. seen: how far a rare tag was looked for without a hit.
CREATE FUNCTION mq_order_look(c mq_cursor, p_limit int, p_closed bigint, p_bytes bigint, OUT hi bigint, OUT taken int, OUT bytes bigint,
                              OUT okeys bigint[], OUT acked varbit, OUT held bigint[], OUT hkeys bigint[], OUT seen bigint)
STABLE LANGUAGE plpgsql AS $$
DECLARE v_hand bigint[] := mq_in_hand(c.group_id); v_any boolean := c.held + c.later > 0; v_busy boolean := v_any OR v_hand <> '{}';
        v_room bigint := 10000 - c.held; v_window int; v_n int;
BEGIN
  IF NOT v_busy AND c.tags IS NULL THEN   -- no key is busy: the next ones as they come
    SELECT max(s.id), count(*), coalesce(sum(s.len), 0), array_agg(s.okey ORDER BY s.id) INTO hi, taken, bytes, okeys FROM (
      SELECT q.id, q.len, mq_okey(c.ordering, c.topic_id, q.skey) AS okey, sum(q.len) OVER (ORDER BY q.id) - q.len AS before FROM (
        SELECT m.id, m.skey, octet_length(m.body) AS len FROM mq_message m
         WHERE m.topic_id = c.topic_id AND m.id > c.pos AND m.id <= p_closed ORDER BY m.id LIMIT p_limit) q) s
     WHERE s.before < p_bytes;
    RETURN;
  END IF;
  FOREACH v_window IN ARRAY CASE WHEN p_limit < 1000 THEN ARRAY[p_limit, 1000] ELSE ARRAY[p_limit] END LOOP
    WITH next AS MATERIALIZED (
      SELECT m.id, m.len, mq_okey(c.ordering, c.topic_id, m.skey) AS okey FROM (
        SELECT x.id, x.tag, x.skey, octet_length(x.body) AS len FROM mq_message x
         WHERE x.topic_id = c.topic_id AND x.id > c.pos AND x.id <= p_closed ORDER BY x.id
         LIMIT CASE WHEN c.tags IS NULL THEN v_window ELSE 5000 END) m
       WHERE c.tags IS NULL OR mq_has_tag(m.tag, c.tags) LIMIT v_window),
    busy AS MATERIALIZED (
      SELECT k.okey, h.okey IS NOT NULL AS in_hand
        FROM (SELECT DISTINCT n.okey FROM next n WHERE n.okey IS NOT NULL) k LEFT JOIN unnest(v_hand) h(okey) ON h.okey = k.okey
       WHERE h.okey IS NOT NULL OR (v_any AND EXISTS (
         SELECT FROM mq_exception e WHERE e.group_id = c.group_id AND e.okey = k.okey AND e.status IN ('L', 'P', 'B')))),
    judged AS MATERIALIZED (
      SELECT n.id, n.len, n.okey, b.okey IS NOT NULL AS blocked, b.in_hand,
             count(*) OVER w AS place, count(*) FILTER (WHERE b.okey IS NULL) OVER w AS nth, count(b.okey) OVER w AS passed,
             sum(CASE WHEN b.okey IS NULL THEN n.len ELSE 0 END) OVER w AS bytes, bool_and(NOT b.in_hand) OVER w AS front
        FROM next n LEFT JOIN busy b ON b.okey = n.okey WINDOW w AS (ORDER BY n.id)),
    bound AS (
      SELECT (SELECT max(j.id) FROM judged j WHERE NOT j.blocked AND j.nth <= p_limit AND j.bytes - j.len < p_bytes AND j.passed <= v_room) AS hi,
             (SELECT max(j.id) FROM judged j WHERE j.front AND j.blocked AND j.passed = j.place AND j.passed <= v_room) AS front)
    SELECT (SELECT count(*) FROM judged), d.hi, count(*) FILTER (WHERE NOT j.blocked), sum(j.len) FILTER (WHERE NOT j.blocked),
           array_agg(CASE WHEN NOT j.blocked THEN j.okey END ORDER BY j.id),
           CASE WHEN bool_or(j.blocked) THEN string_agg(CASE WHEN j.blocked THEN '10' ELSE '00' END, '' ORDER BY j.id)::varbit END,
           array_agg(j.id ORDER BY j.id) FILTER (WHERE j.blocked), array_agg(j.okey ORDER BY j.id) FILTER (WHERE j.blocked)
      INTO v_n, hi, taken, bytes, okeys, acked, held, hkeys
      FROM bound d LEFT JOIN judged j ON j.id <= coalesce(d.hi, d.front) GROUP BY d.hi;
    EXIT WHEN hi IS NOT NULL OR v_n < v_window;
  END LOOP;
  IF v_n = 0 AND c.tags IS NOT NULL THEN
    SELECT max(y.id) INTO seen FROM (SELECT x.id FROM mq_message x WHERE x.topic_id = c.topic_id AND x.id > c.pos AND x.id <= p_closed
                                      ORDER BY x.id LIMIT 5000) y HAVING count(*) >= 500;
  END IF;
END $$;
ALTER FUNCTION mq_order_look SET plan_cache_mode = force_generic_plan;
ALTER FUNCTION mq_order_look SET enable_nestloop = off;   -- a thousand messages with a thousand keys are a million pairs

-- Hold messages back: they wait, with a place of their own.
CREATE FUNCTION mq_hold(p_group bigint, p_topic bigint, p_ids bigint[], p_okeys bigint[], p_now timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO mq_exception (group_id, msg_id, topic_id, first_at, last_at, attempts, status, okey)
    SELECT p_group, u.id, p_topic, p_now, p_now, 0, 'B', u.okey FROM unnest(p_ids, p_okeys) u(id, okey);
END $$;
ALTER FUNCTION mq_hold SET plan_cache_mode = force_generic_plan;

-- Lines in functions that stand elsewhere, as in 0026_limits.sql: nothing else of them changes, so they are not written out again.
SET LOCAL check_function_bodies = off;   -- two changes of one function in SQL: it is right after the second one
CREATE FUNCTION pg_temp.change(p_function text, p_from text, p_to text) RETURNS void LANGUAGE plpgsql AS $f$
DECLARE v_old text := pg_get_functiondef(p_function::regproc); v_new text := replace(v_old, p_from, p_to);
BEGIN
  IF length(v_new) - length(v_old) <> length(p_to) - length(p_from) OR v_new = v_old THEN
    RAISE EXCEPTION '% does not have this once: %', p_function, p_from;
  END IF;
  EXECUTE v_new;
END $f$;

-- As before, but what is out of attempts waits for a person where the group stops its key: L without a time.
DROP FUNCTION mq_outcome(mq_group, boolean, "char", int, bigint, timestamptz);
CREATE FUNCTION mq_outcome(g mq_group, p_active boolean, p_status "char", p_attempts int, p_delay_ms bigint, p_now timestamptz, p_keyed boolean,
                           OUT status "char", OUT attempts int, OUT due_at timestamptz) IMMUTABLE LANGUAGE plpgsql AS $$
DECLARE v_out boolean;
BEGIN
  attempts := p_attempts + CASE WHEN p_status = 'L' THEN 0 ELSE 1 END;
  v_out := p_status = 'X' AND attempts >= g.max_attempts;
  IF v_out AND g.stop_key AND p_keyed AND p_active THEN status := 'L'; RETURN; END IF;
  status := CASE WHEN p_status = 'D' OR v_out THEN 'D' WHEN NOT p_active THEN 'F' ELSE 'L' END;
  IF status = 'L' THEN due_at := p_now + coalesce(p_delay_ms * interval '1 ms', mq_backoff(g.backoff_ms, attempts)); END IF;
END $$;

-- As before, and it frees their keys.
SELECT pg_temp.change('mq_give_up_gone', $x$DECLARE k int;$x$,
$x$DECLARE k int; v_keys bigint[];$x$);
SELECT pg_temp.change('mq_give_up_gone', $x$RETURNING e.topic_id),$x$,
$x$RETURNING e.topic_id, e.okey),$x$);
SELECT pg_temp.change('mq_give_up_gone', $x$SELECT count(*) INTO k FROM gone;$x$,
$x$SELECT count(*), array_agg(okey) FILTER (WHERE okey IS NOT NULL) INTO k, v_keys FROM gone;
  IF v_keys IS NOT NULL THEN PERFORM mq_release(p_group, v_keys, p_now); END IF;$x$);

-- As before, and topics that are ordered.
SELECT pg_temp.change('mq_pull', $x$v_len bigint; v_room bigint;$x$,
$x$v_len bigint; v_room bigint; v_turn bigint[]; o record;$x$);
SELECT pg_temp.change('mq_pull', $x$  SELECT e.single INTO v_single FROM mq_exception e WHERE e.group_id = p_group AND e.status = 'L' AND e.due_at <= v_now ORDER BY$x$,
$x$  IF g.ordered THEN v_turn := mq_order_due(p_group, v_now, p_limit); END IF;
  SELECT e.single INTO v_single FROM mq_exception e WHERE e.group_id = p_group AND e.status = 'L' AND e.due_at <= v_now ORDER BY$x$);
SELECT pg_temp.change('mq_pull', $x$                    AND (v_single OR NOT e.single) ORDER BY$x$,
$x$                    AND (v_single OR NOT e.single) AND (v_turn IS NULL OR e.msg_id = ANY (v_turn)) ORDER BY$x$);
SELECT pg_temp.change('mq_pull', $x$    v_n := 0;
    IF c.tags IS NULL THEN$x$,
$x$    v_n := 0;
    IF c.ordering > 0 THEN
      SELECT * INTO o FROM mq_order_look(c, v_left, v_closed, v_bytes);
      IF o.held IS NOT NULL THEN PERFORM mq_hold(p_group, c.topic_id, o.held, o.hkeys, v_now); END IF;
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
             held = q.held + coalesce(cardinality(o.held), 0)
       WHERE q.group_id = p_group AND q.topic_id = c.topic_id AND coalesce(o.hi, o.held[cardinality(o.held)], o.seen) IS NOT NULL;
      CONTINUE;
    END IF;
    IF c.tags IS NULL THEN$x$);

-- As before, and a failure takes back what comes behind it of its key in the same lease.
SELECT pg_temp.change('mq_settle', $x$v_era int; r record;$x$,
$x$v_era int; r record;
        v_held bigint; v_keys bigint[] := '{}'; v_broken bigint[] := '{}'; v_from bigint[] := '{}'; s_held int;$x$);
SELECT pg_temp.change('mq_settle', $x$        RETURNING q.era INTO v_era;$x$,
$x$        RETURNING q.era, q.held INTO v_era, v_held;$x$);
SELECT pg_temp.change('mq_settle', $x$VALUES (p_group, l.topic_id, l.lo, l.hi, p_token, l.pulled_at, v_now, l.n, 1, false, v_era, l.consumer);
      RETURN;$x$,
$x$VALUES (p_group, l.topic_id, l.lo, l.hi, p_token, l.pulled_at, v_now, l.n, 1, false, v_era, l.consumer);
      IF v_held > 0 THEN PERFORM mq_release(p_group, l.okeys, v_now); END IF;
      RETURN;$x$);
SELECT pg_temp.change('mq_settle', $x$s_ok := 0; s_later := 0; s_dead := 0; s_failed := 0;
$x$,
$x$s_ok := 0; s_later := 0; s_dead := 0; s_failed := 0; s_held := 0; v_broken := '{}'; v_from := '{}';
$x$);
SELECT pg_temp.change('mq_settle', $x$FOR r IN SELECT s.id, s.pos::int - 1 AS pos, o.status, o.delay, o.error FROM unnest(v_ids)$x$,
$x$FOR r IN SELECT s.id, s.pos::int - 1 AS pos, l.okeys[s.pos] AS okey, o.status, o.delay, o.error FROM unnest(v_ids)$x$);
SELECT pg_temp.change('mq_settle', $x$        RETURN NEXT ROW('S', r.id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'already_settled')::mq_row;
        CONTINUE;
      END IF;
$x$,
$x$        RETURN NEXT ROW('S', r.id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, CASE WHEN l.okeys IS NOT NULL AND EXISTS (
          SELECT FROM mq_exception e WHERE e.group_id = p_group AND e.msg_id = r.id AND e.status = 'B') THEN 'held_back' ELSE 'already_settled' END)::mq_row;
        CONTINUE;
      END IF;
      IF r.okey = ANY (v_broken) THEN   -- one before it of its key goes again, and it after that one
        RETURN NEXT ROW('S', r.id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'held_back')::mq_row;
        CONTINUE;
      END IF;
$x$);
SELECT pg_temp.change('mq_settle', $x$INSERT INTO mq_exception AS e (group_id, msg_id, topic_id, token, first_at, last_at, pulled_at, consumer, attempts, lane, status, due_at, error)
          SELECT p_group, r.id, l.topic_id, p_token, v_now, v_now, l.pulled_at, l.consumer, o.attempts, l.lane, o.status, o.due_at, r.error
            FROM mq_outcome(g, v_active, r.status, 0, r.delay, v_now) o$x$,
$x$INSERT INTO mq_exception AS e (group_id, msg_id, topic_id, token, first_at, last_at, pulled_at, consumer, attempts, lane, status, due_at, error, okey)
          SELECT p_group, r.id, l.topic_id, p_token, v_now, v_now, l.pulled_at, l.consumer, o.attempts, l.lane, o.status, o.due_at, r.error, r.okey
            FROM mq_outcome(g, v_active, r.status, 0, r.delay, v_now, r.okey IS NOT NULL) o$x$);
SELECT pg_temp.change('mq_settle', $x$        s_later := s_later + (c.status = 'L')::int; s_dead := s_dead$x$,
$x$        IF c.status = 'L' AND r.okey IS NOT NULL THEN v_broken := v_broken || r.okey; v_from := v_from || r.id; END IF;
        s_later := s_later + (c.status = 'L')::int; s_dead := s_dead$x$);
SELECT pg_temp.change('mq_settle', $x$    v_done := s_ok + s_later + s_dead + s_failed;
$x$,
$x$    IF v_broken <> '{}' THEN   -- what comes behind a message that goes again goes behind it again, also if it has not been settled yet
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
$x$);
SELECT pg_temp.change('mq_settle', $x$dead = q.dead + s_dead, failed = q.failed + s_failed WHERE q.group_id = p_group AND q.topic_id = l.topic_id;
  END LOOP;$x$,
$x$dead = q.dead + s_dead, failed = q.failed + s_failed, held = q.held + s_held WHERE q.group_id = p_group AND q.topic_id = l.topic_id RETURNING q.held INTO v_held;
    IF v_held > 0 THEN v_keys := v_keys || l.okeys; END IF;
  END LOOP;$x$);
SELECT pg_temp.change('mq_settle', $x$  IF cardinality(v_matched) < cardinality(p_ids) THEN
    -- the retried messages of the same lease
    FOR r IN SELECT e.msg_id AS id, e.topic_id, e.attempts, e.pulled_at, e.consumer, o.status, o.delay, o.error, q.active, q.era
$x$,
$x$  IF cardinality(v_matched) < cardinality(p_ids) THEN
    v_broken := '{}'; v_from := '{}';
    -- the retried messages of the same lease
    FOR r IN SELECT e.msg_id AS id, e.topic_id, e.attempts, e.pulled_at, e.consumer, e.okey, o.status, o.delay, o.error, q.active, q.era, q.held
$x$);
SELECT pg_temp.change('mq_settle', $x$      v_live := true;
      v_matched := v_matched || r.id;
      IF r.status = 'S' THEN
        DELETE FROM mq_exception$x$,
$x$      v_live := true;
      v_matched := v_matched || r.id;
      IF r.okey = ANY (v_broken) THEN
        RETURN NEXT ROW('S', r.id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'held_back')::mq_row;
        CONTINUE;
      END IF;
      IF r.okey IS NOT NULL AND r.held > 0 THEN v_keys := v_keys || r.okey; END IF;
      IF r.status = 'S' THEN
        DELETE FROM mq_exception$x$);
SELECT pg_temp.change('mq_settle', $x$SET status = o.status, attempts = o.attempts, due_at = o.due_at, error = r.error, last_at = v_now, lease_until = NULL, single = false
          FROM mq_outcome(g, r.active, r.status, r.attempts, r.delay, v_now) o$x$,
$x$SET status = o.status, attempts = o.attempts, due_at = o.due_at, error = r.error, last_at = v_now, lease_until = NULL, single = false,
               first_at = CASE WHEN e.okey IS NOT NULL AND e.attempts = 0 AND e.error IS NULL THEN v_now ELSE e.first_at END
          FROM mq_outcome(g, r.active, r.status, r.attempts, r.delay, v_now, r.okey IS NOT NULL) o$x$);
SELECT pg_temp.change('mq_settle', $x$               failed = q.failed + (c.status = 'F')::int WHERE q.group_id = p_group AND q.topic_id = r.topic_id;
        RETURN NEXT ROW($x$,
$x$               failed = q.failed + (c.status = 'F')::int WHERE q.group_id = p_group AND q.topic_id = r.topic_id;
        IF c.status = 'L' AND r.okey IS NOT NULL THEN v_broken := v_broken || r.okey; v_from := v_from || r.id; END IF;
        RETURN NEXT ROW($x$);
SELECT pg_temp.change('mq_settle', $x$    END LOOP;
  END IF;

  -- The rest gets a problem$x$,
$x$    END LOOP;
    IF v_broken <> '{}' THEN
      WITH back AS (
        UPDATE mq_exception e SET status = 'B', token = NULL, lease_until = NULL, due_at = NULL FROM unnest(v_broken, v_from) b(okey, id)
         WHERE e.group_id = p_group AND e.token = p_token AND e.status = 'P' AND e.okey = b.okey AND e.msg_id > b.id RETURNING e.topic_id)
      UPDATE mq_cursor q SET processing = q.processing - x.n, held = q.held + x.n FROM (SELECT topic_id, count(*) AS n FROM back GROUP BY 1) x
       WHERE q.group_id = p_group AND q.topic_id = x.topic_id;
    END IF;
  END IF;
  IF v_keys <> '{}' THEN PERFORM mq_release(p_group, v_keys, v_now); END IF;

  -- The rest gets a problem$x$);
SELECT pg_temp.change('mq_settle', $x$      CASE WHEN EXISTS (SELECT FROM mq_exception e WHERE e.group_id = p_group AND e.msg_id = o.id AND e.token = p_token AND e.status <> 'P')$x$,
$x$      CASE WHEN EXISTS (SELECT FROM mq_exception e WHERE e.group_id = p_group AND e.msg_id = o.id AND e.status = 'B') THEN 'held_back'
           WHEN EXISTS (SELECT FROM mq_exception e WHERE e.group_id = p_group AND e.msg_id = o.id AND e.token = p_token AND e.status <> 'P')$x$);

-- As before; of an ordered topic the first one of each key is to be tried again, and the others wait behind it.
SELECT pg_temp.change('mq_expire', $x$v_gone int; v_lost int;$x$,
$x$v_gone int; v_lost int; v_keyed boolean; v_n int; v_keys bigint[] := '{}';$x$);
SELECT pg_temp.change('mq_expire', $x$(CASE WHEN l.alone THEN 'X' ELSE 'L' END)::"char", 0, CASE WHEN l.alone THEN NULL ELSE 0 END, v_now);$x$,
$x$(CASE WHEN l.alone THEN 'X' ELSE 'L' END)::"char", 0, CASE WHEN l.alone THEN NULL ELSE 0 END, v_now, v_keyed);$x$);
SELECT pg_temp.change('mq_expire', $x$    SELECT q.active, q.era INTO v_active, v_era FROM mq_cursor q WHERE q.group_id = p_group AND q.topic_id = l.topic_id;
$x$,
$x$    SELECT q.active, q.era INTO v_active, v_era FROM mq_cursor q WHERE q.group_id = p_group AND q.topic_id = l.topic_id;
    v_keyed := cardinality(array_remove(l.okeys, NULL)) > 0;
$x$);
SELECT pg_temp.change('mq_expire', $x$    INSERT INTO mq_exception (group_id, msg_id, topic_id, first_at, last_at, pulled_at, consumer, attempts, lane, status, due_at, single, error)
      SELECT p_group, u.id, l.topic_id, v_now, v_now, l.pulled_at, l.consumer, c.attempts, l.lane, c.status, c.due_at, true, 'lease expired' FROM unnest(v_ids) u(id);
$x$,
$x$    v_n := cardinality(v_ids);   -- those that the outcome is for
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
$x$);
SELECT pg_temp.change('mq_expire', $x$           later = q.later + CASE WHEN c.status = 'L' THEN cardinality(v_ids) ELSE 0 END,
           dead = q.dead + CASE WHEN c.status = 'D' THEN cardinality(v_ids) ELSE 0 END,
           failed = q.failed + v_lost + CASE WHEN c.status = 'F' THEN cardinality(v_ids) ELSE 0 END
$x$,
$x$           later = q.later + CASE WHEN c.status = 'L' THEN v_n ELSE 0 END,
           dead = q.dead + CASE WHEN c.status = 'D' THEN v_n ELSE 0 END,
           failed = q.failed + v_lost + CASE WHEN c.status = 'F' THEN v_n ELSE 0 END,
           held = q.held + cardinality(v_ids) - v_n
$x$);
SELECT pg_temp.change('mq_expire', $x$  FOR r IN SELECT e.msg_id, e.topic_id, e.attempts, e.single, q.active FROM$x$,
$x$  FOR r IN SELECT e.msg_id, e.topic_id, e.attempts, e.single, e.okey, q.active FROM$x$);
SELECT pg_temp.change('mq_expire', $x$AND e.lease_until <= v_now ORDER BY e.lease_until LIMIT p_limit * 10 LOOP
$x$,
$x$AND e.lease_until <= v_now ORDER BY e.lease_until, e.msg_id LIMIT p_limit * 10 LOOP
    IF r.okey IS NOT NULL THEN
      v_keys := v_keys || r.okey;
      IF r.active AND EXISTS (SELECT FROM mq_exception b WHERE b.group_id = p_group AND b.okey = r.okey AND b.status IN ('L', 'P', 'B') AND b.msg_id < r.msg_id) THEN
        UPDATE mq_exception e SET status = 'B', token = NULL, lease_until = NULL, due_at = NULL, single = true WHERE e.group_id = p_group AND e.msg_id = r.msg_id;
        UPDATE mq_cursor q SET processing = q.processing - 1, held = q.held + 1 WHERE q.group_id = p_group AND q.topic_id = r.topic_id;
        k := k + 1;
        CONTINUE;
      END IF;
    END IF;
$x$);
SELECT pg_temp.change('mq_expire', $x$error = 'lease expired'
      FROM mq_outcome(g, r.active, (CASE WHEN r.single THEN 'X' ELSE 'L' END)::"char", r.attempts, CASE WHEN r.single THEN NULL ELSE 0 END, v_now) o$x$,
$x$error = 'lease expired',
           first_at = CASE WHEN e.okey IS NOT NULL AND e.attempts = 0 AND e.error IS NULL THEN v_now ELSE e.first_at END
      FROM mq_outcome(g, r.active, (CASE WHEN r.single THEN 'X' ELSE 'L' END)::"char", r.attempts, CASE WHEN r.single THEN NULL ELSE 0 END, v_now, r.okey IS NOT NULL) o$x$);
SELECT pg_temp.change('mq_expire', $x$    k := k + 1;
  END LOOP;
  RETURN k;$x$,
$x$    k := k + 1;
  END LOOP;
  IF v_keys <> '{}' THEN PERFORM mq_release(p_group, v_keys, v_now); END IF;
  RETURN k;$x$);

-- As before; of an ordered topic a message whose key is free has to be among the next ones.
SELECT pg_temp.change('mq_ready', $x$                   WHERE c.group_id = g.group_id AND c.active AND c.pos < h.closed_id
$x$,
$x$                   WHERE c.group_id = g.group_id AND c.active AND c.pos < h.closed_id AND c.ordering = 0
$x$);
SELECT pg_temp.change('mq_ready', $x$AND (m.hit OR m.n = 500)))$x$,
$x$AND (m.hit OR m.n = 500))
       OR (g.ordered AND EXISTS (SELECT FROM mq_cursor c CROSS JOIN mq_horizon h CROSS JOIN LATERAL mq_order_look(c, 1, h.closed_id, 1) o
                   WHERE c.group_id = g.group_id AND c.active AND c.pos < h.closed_id AND c.ordering > 0
                     AND (o.hi IS NOT NULL OR o.held IS NOT NULL OR o.seen IS NOT NULL))))$x$);

-- As before; what is held back waits.
SELECT pg_temp.change('mq_status', $x$CASE s.status WHEN 'W' THEN 0 WHEN$x$,
$x$CASE s.status WHEN 'W' THEN coalesce(e.attempts, 0) WHEN$x$);
SELECT pg_temp.change('mq_status', $x$      WHEN e.group_id IS NOT NULL THEN e.status::text
$x$,
$x$      WHEN e.status = 'B' THEN 'W'
      WHEN e.group_id IS NOT NULL THEN e.status::text
$x$);

-- As before; what is held back waits.
SELECT pg_temp.change('mq_needed_by', $x$SELECT x.topic_id, x.status, count(*) AS n FROM$x$,
$x$SELECT x.topic_id, CASE x.status WHEN 'B' THEN 'W' ELSE x.status END::"char" AS status, count(*) AS n FROM$x$);

-- As before, with what the furthest one or another has held back.
SELECT pg_temp.change('mq_topic_backlog', $x$SELECT coalesce(max(mq_count(p_topic, c.pos, 9223372036854775807, c.tags)), 0)
$x$,
$x$SELECT coalesce(max(mq_count(p_topic, c.pos, 9223372036854775807, c.tags) + c.held), 0)
$x$);
SELECT pg_temp.change('mq_topic_backlog', $x$FROM (SELECT min(q.pos) AS pos, q.tags FROM$x$,
$x$FROM (SELECT min(q.pos) AS pos, max(q.held) AS held, q.tags FROM$x$);

-- As before, with what is held back.
SELECT pg_temp.change('mq_backlog', $x$coalesce(max(mq_count(c.topic_id, c.pos, 9223372036854775807, c.tags)), 0)$x$,
$x$coalesce(max(mq_count(c.topic_id, c.pos, 9223372036854775807, c.tags) + c.held), 0)$x$);

-- As before, with what is held back.
SELECT pg_temp.change('mq_lag', $x$SELECT c.group_id, c.topic_id, mq_count(c.topic_id, f.id - 1, v_latest, c.tags), f.sent_at
$x$,
$x$SELECT c.group_id, c.topic_id, CASE WHEN f.id IS NULL THEN 0 ELSE mq_count(c.topic_id, f.id - 1, v_latest, c.tags) END + c.held, least(f.sent_at, b.sent_at)
$x$);
SELECT pg_temp.change('mq_lag', $x$     CROSS JOIN LATERAL (SELECT m.id, m.sent_at FROM mq_message m WHERE$x$,
$x$      LEFT JOIN LATERAL (SELECT m.id, m.sent_at FROM mq_message m WHERE$x$);
SELECT pg_temp.change('mq_lag', $x$ORDER BY m.id LIMIT 1) f
     WHERE c.active;$x$,
$x$ORDER BY m.id LIMIT 1) f ON true
      LEFT JOIN LATERAL (SELECT m.sent_at FROM (SELECT min(e.msg_id) AS id FROM mq_exception e WHERE e.group_id = c.group_id AND e.topic_id = c.topic_id
                            AND e.okey IS NOT NULL AND e.status = 'B') x JOIN mq_message m ON m.topic_id = c.topic_id AND m.id = x.id WHERE c.held > 0) b ON true
     WHERE c.active AND (f.id IS NOT NULL OR c.held > 0);$x$);

-- As before; what is held back is given up with the retries.
SELECT pg_temp.change('mq_unsubscribe', $x$DECLARE c mq_cursor; v_latest bigint; k bigint;$x$,
$x$DECLARE c mq_cursor; v_latest bigint; k bigint; v_held bigint;$x$);
SELECT pg_temp.change('mq_unsubscribe', $x$  UPDATE mq_exception SET status = 'F',$x$,
$x$  SELECT held INTO v_held FROM mq_cursor WHERE group_id = p_group AND topic_id = p_topic;
  UPDATE mq_exception SET status = 'F',$x$);
SELECT pg_temp.change('mq_unsubscribe', $x$AND topic_id = p_topic AND status = 'L';
$x$,
$x$AND topic_id = p_topic AND status IN ('L', 'B');
$x$);
SELECT pg_temp.change('mq_unsubscribe', $x$later = later - k, failed = failed + k WHERE$x$,
$x$later = later - (k - v_held), held = 0, failed = failed + k WHERE$x$);

-- As before; of an ordered topic it goes as soon as nothing of its key is in hand, before all that wait.
SELECT pg_temp.change('mq_redrive', $x$#variable_conflict use_column
BEGIN
$x$,
$x$#variable_conflict use_column
DECLARE v_keys bigint[] := ARRAY(SELECT e.okey FROM mq_exception e WHERE e.group_id = p_group AND e.msg_id = ANY (p_ids) AND e.okey IS NOT NULL);
BEGIN
$x$);
SELECT pg_temp.change('mq_redrive', $x$SET status = 'L', attempts = 0, single = false, redrives = e.redrives + 1, due_at = clock_timestamp(), token = NULL
$x$,
$x$SET status = CASE WHEN e.okey IS NULL THEN 'L' ELSE 'B' END::"char", attempts = 0, single = false, redrives = e.redrives + 1,
             due_at = CASE WHEN e.okey IS NULL THEN clock_timestamp() END, token = NULL
$x$);
SELECT pg_temp.change('mq_redrive', $x$RETURNING e.msg_id, e.topic_id),$x$,
$x$RETURNING e.msg_id, e.topic_id, e.status),$x$);
SELECT pg_temp.change('mq_redrive', $x$UPDATE mq_cursor c SET dead = c.dead - x.n, later = c.later + x.n FROM (SELECT topic_id, count(*) AS n FROM back GROUP BY 1) x$x$,
$x$UPDATE mq_cursor c SET dead = c.dead - x.n, later = c.later + x.n - x.held, held = c.held + x.held
        FROM (SELECT topic_id, count(*) AS n, count(*) FILTER (WHERE status = 'B') AS held FROM back GROUP BY 1) x$x$);
SELECT pg_temp.change('mq_redrive', $x$    SELECT j.id, j.refusal FROM judged j;
$x$,
$x$    SELECT j.id, j.refusal FROM judged j;
  IF v_keys <> '{}' THEN PERFORM mq_release(p_group, v_keys, clock_timestamp()); END IF;   -- one whose key is busy has its turn next
$x$);

ALTER TYPE mq_plan ADD ATTRIBUTE held bigint;   -- of those that a rewind goes back over
DROP FUNCTION mq_tally(bigint, bigint, bigint, bigint);

-- As before, with those held back.
CREATE FUNCTION mq_tally(p_group bigint, p_topic bigint, p_lo bigint, p_hi bigint, OUT processing bigint, OUT succeeded bigint, OUT later bigint,
                         OUT dead bigint, OUT failed bigint, OUT skipped bigint, OUT held bigint) STABLE LANGUAGE plpgsql AS $$
DECLARE l mq_lease; v_leased bigint := 0; v_n bigint;
BEGIN
  SELECT coalesce(sum(x.n) FILTER (WHERE x.kind = 'D'), 0), coalesce(sum(x.n) FILTER (WHERE x.kind = 'K'), 0) INTO succeeded, skipped FROM (
    SELECT s.kind, mq_count(p_topic, greatest(s.lo, p_lo), least(coalesce(s.hi, p_hi), p_hi), s.tags) AS n FROM mq_span s
     WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.kind <> 'N' AND s.lo < p_hi AND (s.hi IS NULL OR s.hi > p_lo)) x;
  SELECT count(*) FILTER (WHERE e.status = 'P'), count(*) FILTER (WHERE e.status = 'L'), count(*) FILTER (WHERE e.status = 'D'),
         count(*) FILTER (WHERE e.status = 'F'), count(*) FILTER (WHERE e.status = 'B'), succeeded - count(*) INTO processing, later, dead, failed, held, succeeded
    FROM mq_exception e WHERE e.group_id = p_group AND e.topic_id = p_topic AND e.msg_id > p_lo AND e.msg_id <= p_hi;
  FOR l IN SELECT * FROM mq_lease q WHERE q.group_id = p_group AND q.topic_id = p_topic AND q.hi > p_lo LOOP
    v_n := l.left_n;
    IF l.lo < p_lo THEN   -- only its end
      SELECT count(*) INTO v_n FROM (SELECT m.id, row_number() OVER (ORDER BY m.id)::int - 1 AS pos FROM mq_message m
         WHERE m.topic_id = p_topic AND m.id > l.lo AND m.id <= l.hi AND (l.tags IS NULL OR mq_has_tag(m.tag, l.tags))) s
       WHERE s.id > p_lo AND (l.acked IS NULL OR get_bit(l.acked, 2 * s.pos) = 0);
    END IF;
    v_leased := v_leased + v_n;
  END LOOP;
  processing := processing + v_leased;
  succeeded := succeeded - v_leased;
END $$;
ALTER FUNCTION mq_tally SET plan_cache_mode = force_generic_plan;

-- As before, with those held back.
SELECT pg_temp.change('mq_reset_plan', $x$DECLARE g mq_group; c mq_cursor; t record; p mq_plan; v_again bigint;$x$,
$x$DECLARE g mq_group; c mq_cursor; t record; p mq_plan; v_again bigint; v_held bigint := 0;$x$);
SELECT pg_temp.change('mq_reset_plan', $x$p.skipped := t.skipped;
$x$,
$x$p.skipped := t.skipped; p.held := t.held;
$x$);
SELECT pg_temp.change('mq_reset_plan', $x$    p.first_time := v_again - p.repeated;
$x$,
$x$    IF p.held > 0 THEN   -- they were passed, not handed out
      SELECT count(*) INTO v_held FROM mq_exception e JOIN mq_message m ON m.topic_id = p_topic AND m.id = e.msg_id
       WHERE e.group_id = p_group AND e.topic_id = p_topic AND e.okey IS NOT NULL AND e.status = 'B' AND e.attempts = 0
         AND e.msg_id > p_target AND e.msg_id <= c.pos AND (c.tags IS NULL OR mq_has_tag(m.tag, c.tags));
      p.repeated := p.repeated - v_held;
    END IF;
    p.first_time := v_again - p.repeated;
$x$);
SELECT pg_temp.change('mq_reset_plan', $x$p.failed, p.skipped));$x$,
$x$p.failed, p.skipped, c.held, p.held));$x$);

-- As before, with those held back.
SELECT pg_temp.change('mq_reset', $x$attempts, lane, status, single, consumer)
        SELECT p_group, s.id, l.topic_id, l.token, l.lease_until, l.pulled_at, v_now, v_now, 0, l.lane, 'P', l.alone, l.consumer
$x$,
$x$attempts, lane, status, single, consumer, okey)
        SELECT p_group, s.id, l.topic_id, l.token, l.lease_until, l.pulled_at, v_now, v_now, 0, l.lane, 'P', l.alone, l.consumer, l.okeys[s.pos + 1]
$x$);
SELECT pg_temp.change('mq_reset', $x$failed = q.failed - p.failed, skipped = q.skipped - p.skipped
$x$,
$x$failed = q.failed - p.failed, skipped = q.skipped - p.skipped, held = q.held - p.held
$x$);
SELECT pg_temp.change('mq_reset', $x$  p.done := true;
$x$,
$x$  IF c.held > 0 THEN PERFORM mq_release_all(p_group, p_topic); END IF;
  p.done := true;
$x$);

-- As before, with those held back.
SELECT pg_temp.change('mq_reset_undo', $x$failed = q.failed + t.failed, skipped = q.skipped + t.skipped WHERE q.group_id = p_group AND q.topic_id = p_topic;
$x$,
$x$failed = q.failed + t.failed, skipped = q.skipped + t.skipped, held = q.held + t.held WHERE q.group_id = p_group AND q.topic_id = p_topic;
    IF c.ordering > 0 THEN PERFORM mq_release_all(p_group, p_topic); END IF;
$x$);
SELECT pg_temp.change('mq_reset_undo', $x$DECLARE c mq_cursor; u mq_undo; t record; v_now timestamptz;$x$,
$x$DECLARE c mq_cursor; u mq_undo; t record; v_now timestamptz; v_held bigint;$x$);
SELECT pg_temp.change('mq_reset_undo', $x$      INSERT INTO mq_exception (group_id, msg_id, topic_id, first_at, last_at, attempts, status, due_at, error)
        SELECT p_group, m.id, p_topic, v_now, v_now, 0, 'L', v_now, 'skipped, taken back' FROM mq_message m
$x$,
$x$      INSERT INTO mq_exception (group_id, msg_id, topic_id, first_at, last_at, attempts, status, due_at, error, okey)
        SELECT p_group, m.id, p_topic, v_now, v_now, 0, CASE WHEN k.okey IS NULL THEN 'L' ELSE 'B' END, CASE WHEN k.okey IS NULL THEN v_now END, 'skipped, taken back', k.okey
          FROM mq_message m CROSS JOIN LATERAL (SELECT mq_okey(c.ordering, p_topic, m.skey) AS okey) k
$x$);
SELECT pg_temp.change('mq_reset_undo', $x$      UPDATE mq_cursor q SET era = q.era + 1, skipped = q.skipped - restored, later = q.later + restored
       WHERE q.group_id = p_group AND q.topic_id = p_topic;
$x$,
$x$      SELECT count(*) FILTER (WHERE e.status = 'B') INTO v_held FROM mq_exception e WHERE c.ordering > 0 AND e.group_id = p_group AND e.topic_id = p_topic
         AND e.msg_id > u.from_pos AND e.msg_id <= u.to_pos;
      UPDATE mq_cursor q SET era = q.era + 1, skipped = q.skipped - restored, later = q.later + restored - v_held, held = q.held + v_held
       WHERE q.group_id = p_group AND q.topic_id = p_topic;
      IF v_held > 0 THEN PERFORM mq_release_all(p_group, p_topic); END IF;
$x$);

-- As before; what was held back is neither handed out nor failed by that.
SELECT pg_temp.change('mq_trace', $x$  held AS MATERIALIZED (
$x$,
$x$  leased AS (
$x$);
SELECT pg_temp.change('mq_trace', $x$  wrong AS MATERIALIZED (
$x$,
$x$  held AS MATERIALIZED (   -- an ordered topic's lease does not have what was held back in its range
    SELECT l.* FROM leased l WHERE NOT (l.pos IS NOT NULL AND get_bit(l.acked, 2 * l.pos) = 1 AND get_bit(l.acked, 2 * l.pos + 1) = 0 AND EXISTS (
      SELECT FROM mq_cursor c WHERE c.group_id = l.group_id AND c.topic_id = p_topic AND c.ordering > 0
         AND (EXISTS (SELECT FROM mq_exception e WHERE e.group_id = l.group_id AND e.msg_id = p_id AND e.attempts = 0 AND e.error IS NULL)
           OR EXISTS (SELECT FROM mq_history h WHERE h.group_id = l.group_id AND h.topic_id = p_topic AND h.retried AND h.hi = p_id AND h.attempts = 1))))),
  wrong AS MATERIALIZED (
$x$);
SELECT pg_temp.change('mq_trace', $x$THEN x.error END FROM wrong x WHERE x.pulled_at IS NOT NULL
$x$,
$x$THEN x.error END FROM wrong x WHERE x.pulled_at IS NOT NULL
     AND (x.okey IS NULL OR x.attempts > 0 OR x.error IS NOT NULL)   -- one that was only held back has not failed
$x$);
SELECT pg_temp.change('mq_trace', $x$WHERE x.last_at > x.first_at AND x.status <> 'F'$x$,
$x$WHERE x.last_at > x.first_at AND x.status NOT IN ('F', 'B')$x$);
SELECT pg_temp.change('mq_trace', $x$FROM wrong x WHERE x.status = 'L'$x$,
$x$FROM wrong x WHERE x.status = 'L' AND x.due_at IS NOT NULL$x$);

-- Messages that stop their keys: out of attempts, in a group that stops then; and how many are held back behind each. Longest stopped first.
CREATE FUNCTION mq_stopped(p_group bigint, p_limit int) RETURNS TABLE (message_id bigint, topic_id bigint, skey text, key text, attempts int, error text,
    consumer text, stopped_at timestamptz, held bigint) STABLE LANGUAGE sql AS $$
  SELECT x.msg_id, x.topic_id, m.skey, m.key, x.attempts, x.error, x.consumer, x.last_at,
         (SELECT count(*) FROM mq_exception b WHERE b.group_id = p_group AND b.okey = x.okey AND b.status IN ('L', 'P', 'B') AND b.status = 'B')
    FROM (SELECT e.* FROM mq_exception e WHERE e.group_id = p_group AND e.status = 'L' AND e.due_at IS NULL ORDER BY e.msg_id LIMIT p_limit) x
    LEFT JOIN mq_message m ON m.topic_id = x.topic_id AND m.id = x.msg_id
   ORDER BY x.msg_id $$;

-- A person decides on them: R try again with fresh attempts, D to the dead letters, F give up. '' or why not, for each.
CREATE FUNCTION mq_stopped_decide(p_group bigint, p_ids bigint[], p_decision "char", p_reason text) RETURNS TABLE (message_id bigint, refusal text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE v_now timestamptz; v_ids bigint[]; v_keys bigint[];
BEGIN
  PERFORM mq_lock_group(p_group);
  v_now := clock_timestamp();
  WITH done AS (
    UPDATE mq_exception e SET status = CASE p_decision WHEN 'R' THEN 'L' ELSE p_decision END, attempts = CASE p_decision WHEN 'R' THEN 0 ELSE e.attempts END,
           due_at = CASE p_decision WHEN 'R' THEN v_now END, single = false, token = NULL, last_at = CASE p_decision WHEN 'R' THEN e.last_at ELSE v_now END,
           error = CASE p_decision WHEN 'F' THEN coalesce(e.error || '; ', '') || 'skipped: ' || p_reason ELSE e.error END
     WHERE e.group_id = p_group AND e.msg_id = ANY (p_ids) AND e.status = 'L' AND e.due_at IS NULL RETURNING e.msg_id, e.topic_id, e.okey),
  counted AS (
    UPDATE mq_cursor c SET later = c.later - x.n, dead = c.dead + x.n * (p_decision = 'D')::int, failed = c.failed + x.n * (p_decision = 'F')::int
      FROM (SELECT topic_id, count(*) AS n FROM done GROUP BY 1) x WHERE c.group_id = p_group AND c.topic_id = x.topic_id AND p_decision <> 'R')
  SELECT array_agg(d.msg_id), array_agg(d.okey) INTO v_ids, v_keys FROM done d;
  IF v_ids IS NOT NULL THEN PERFORM mq_release(p_group, v_keys, v_now); END IF;
  RETURN QUERY SELECT u.id, CASE WHEN u.id = ANY (v_ids) THEN '' ELSE 'not_stopped' END FROM unnest(p_ids) u(id);
END $$;
ALTER FUNCTION mq_stopped_decide SET plan_cache_mode = force_generic_plan;

-- What is held back expires as what waits, as long as nobody has redriven it.
CREATE FUNCTION mq_take_out_held(p_group bigint, p_most int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE k int;
BEGIN
  IF NOT EXISTS (SELECT FROM mq_cursor c WHERE c.group_id = p_group AND c.held > 0) THEN RETURN 0; END IF;
  WITH old AS (
    UPDATE mq_exception e SET status = 'D', last_at = clock_timestamp(), error = 'expired' FROM (
      SELECT b.msg_id FROM mq_exception b JOIN mq_limit x ON x.topic_id = b.topic_id AND x.expired_id >= b.msg_id
       WHERE b.group_id = p_group AND b.okey IS NOT NULL AND b.status = 'B' AND b.redrives = 0 LIMIT p_most) o
     WHERE e.group_id = p_group AND e.msg_id = o.msg_id RETURNING e.topic_id),
  counted AS (
    UPDATE mq_cursor c SET held = c.held - x.n, dead = c.dead + x.n FROM (SELECT topic_id, count(*) AS n FROM old GROUP BY 1) x
     WHERE c.group_id = p_group AND c.topic_id = x.topic_id)
  SELECT count(*) INTO k FROM old;
  RETURN k;
END $$;
ALTER FUNCTION mq_take_out_held SET plan_cache_mode = force_generic_plan;

-- As before; keys go on behind what has expired, and what is buried knows its key, if somebody redrives it.
SELECT pg_temp.change('mq_take_out', $x$k int; v_more boolean := false;$x$,
$x$k int; v_more boolean := false; v_keys bigint[];$x$);
SELECT pg_temp.change('mq_take_out', $x$e.redrives = 0 RETURNING e.topic_id),$x$,
$x$e.redrives = 0 RETURNING e.topic_id, e.okey),$x$);
SELECT pg_temp.change('mq_take_out', $x$  SELECT count(*) INTO k FROM old;
  RETURN v_more OR k > 0;$x$,
$x$  SELECT count(*), array_agg(okey) FILTER (WHERE okey IS NOT NULL) INTO k, v_keys FROM old;
  k := k + mq_take_out_held(p_group, p_most);
  IF v_keys IS NOT NULL THEN PERFORM mq_release(p_group, v_keys, v_now); END IF;
  RETURN v_more OR k > 0;$x$);
SELECT pg_temp.change('mq_limited_groups', $x$c.later > 0 OR$x$,
$x$c.later > 0 OR c.held > 0 OR$x$);
SELECT pg_temp.change('mq_bury', $x$attempts, lane, status, skey, error)
$x$,
$x$attempts, lane, status, skey, error, okey)
$x$);
SELECT pg_temp.change('mq_bury', $x$CASE WHEN m.lane >= 0 THEN m.skey END, p_cause
$x$,
$x$CASE WHEN m.lane >= 0 THEN m.skey END, p_cause, mq_okey(c.ordering, p_topic, m.skey)
$x$);

DROP FUNCTION pg_temp.change(text, text, text);
SET LOCAL check_function_bodies = on;
