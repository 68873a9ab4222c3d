-- Ordered topics: a message of an order key is handed out when all messages of that key before it are done, or in the same lease.
--
-- An order key is the hash of topic and sharding key, or the topic's id where the topic is ordered as a whole; NULL: in no order with
-- others. What the cursor passes although its key is busy becomes an exception B, held back: waiting to everybody, with a place to wait in.
-- Whether a message may go is judged where it is handed out, under the group's lock; mq_release only sees to it that nothing waits for ever.

CREATE OR REPLACE FUNCTION mq_okey(p_ordering smallint, p_topic bigint, p_skey text) RETURNS bigint IMMUTABLE LANGUAGE sql AS $$ SELECT CASE p_ordering WHEN 1 THEN hashtextextended(p_skey, p_topic) WHEN 2 THEN p_topic END $$;

-- The order of a topic, said when it comes to the store; it is fixed from its first message on.
CREATE OR REPLACE FUNCTION mq_topic_order(p_topic bigint, p_ordering smallint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM mq_group g WHERE g.group_id IN (SELECT c.group_id FROM mq_cursor c WHERE c.topic_id = p_topic) ORDER BY g.group_id FOR NO KEY UPDATE;
  INSERT INTO mq_topic (topic_id, ordering) VALUES (p_topic, p_ordering) ON CONFLICT (topic_id) DO UPDATE SET ordering = EXCLUDED.ordering;
  UPDATE mq_cursor c SET ordering = p_ordering WHERE c.topic_id = p_topic AND c.ordering <> p_ordering;
  UPDATE mq_group g SET ordered = true WHERE p_ordering > 0 AND NOT g.ordered AND g.group_id IN (SELECT c.group_id FROM mq_cursor c WHERE c.topic_id = p_topic);
END $$;

CREATE OR REPLACE FUNCTION mq_group_policy(p_group bigint, p_stop_key boolean) RETURNS void LANGUAGE sql AS $$
  UPDATE mq_group SET stop_key = p_stop_key WHERE group_id = p_group $$;

-- The order keys of which a worker has a message in hand, leases that ran out included until they are taken back.
-- Planned once: in plain SQL it would be planned at each call.
CREATE OR REPLACE FUNCTION mq_in_hand(p_group bigint) RETURNS bigint[] STABLE LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  RETURN (SELECT coalesce(array_agg(DISTINCT x.okey), '{}') FROM (
    SELECT u.okey FROM mq_lease l CROSS JOIN LATERAL unnest(l.okeys) WITH ORDINALITY u(okey, pos)
     WHERE l.group_id = p_group AND u.okey IS NOT NULL AND (l.acked IS NULL OR get_bit(l.acked, 2 * (u.pos::int - 1)) = 0)
    UNION ALL
    SELECT e.okey FROM mq_exception e WHERE e.group_id = p_group AND e.status = 'P' AND e.okey IS NOT NULL) x);
END $$;

-- Keys may have become free: where the first message that is left of one is held back and nothing of it in hand, it is a retry that is due
-- now. Called by whatever takes a message out of the way of others; once too often does no harm.
CREATE OR REPLACE FUNCTION mq_release(p_group bigint, p_okeys bigint[], p_now timestamptz) RETURNS void LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
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

-- The same for all keys of a position that have a message held back.
CREATE OR REPLACE FUNCTION mq_release_all(p_group bigint, p_topic bigint) RETURNS void LANGUAGE sql AS $$
  SELECT mq_release(p_group, array_agg(DISTINCT e.okey), clock_timestamp()) FROM mq_exception e
   WHERE e.group_id = p_group AND e.topic_id = p_topic AND e.okey IS NOT NULL AND e.status = 'B' $$;

-- Of the retries that are due the first ones that may go, at most p_limit. What is not its key's turn is held back again. Behind one that
-- was only held back and has never failed, the next ones of its key go with it, up to one that has to go alone or that a person decides on.
CREATE OR REPLACE FUNCTION mq_order_due(p_group bigint, p_now timestamptz, p_limit int) RETURNS bigint[] LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
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

-- What an ordered position would hand out next: of the next p_limit messages those whose key is free; if none is, the first free ones of the
-- next thousand, as far as the ceiling of 10,000 held back ones allows to pass the others. hi NULL: none.
-- `held` and `hkeys` are those to be held back up to hi; without a free one, those at the front that wait for a retry or a person: they
-- are passed even then, while one that waits for a worker's outcome is not. seen: how far a rare tag was looked for without a hit.
-- No nested loop: a thousand messages with a thousand keys are a million pairs.
CREATE OR REPLACE FUNCTION mq_order_look(c mq_cursor, p_limit int, p_closed bigint, p_bytes bigint, OUT hi bigint, OUT taken int, OUT bytes bigint,
                              OUT okeys bigint[], OUT acked varbit, OUT held bigint[], OUT hkeys bigint[], OUT seen bigint)
STABLE LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_nestloop = off AS $$
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

-- Hold messages back: they wait, with a place of their own.
CREATE OR REPLACE FUNCTION mq_hold(p_group bigint, p_topic bigint, p_ids bigint[], p_okeys bigint[], p_slots smallint[], p_now timestamptz) RETURNS void LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  INSERT INTO mq_exception (group_id, msg_id, topic_id, first_at, last_at, attempts, status, okey, slot)
    SELECT p_group, u.id, p_topic, p_now, p_now, 0, 'B', u.okey, u.slot FROM unnest(p_ids, p_okeys, p_slots) u(id, okey, slot);
END $$;

-- Messages that stop their keys: out of attempts, in a group that stops then; and how many are held back behind each. Longest stopped first.
CREATE OR REPLACE FUNCTION mq_stopped(p_group bigint, p_limit int) RETURNS TABLE (message_id bigint, topic_id bigint, skey text, key text, attempts int, error text,
    consumer text, stopped_at timestamptz, held bigint) STABLE LANGUAGE sql AS $$
  SELECT x.msg_id, x.topic_id, m.skey, m.key, x.attempts, x.error, x.consumer, x.last_at,
         (SELECT count(*) FROM mq_exception b WHERE b.group_id = p_group AND b.okey = x.okey AND b.status IN ('L', 'P', 'B') AND b.status = 'B')
    FROM (SELECT e.* FROM mq_exception e WHERE e.group_id = p_group AND e.status = 'L' AND e.due_at IS NULL ORDER BY e.msg_id LIMIT p_limit) x
    LEFT JOIN mq_message m ON m.topic_id = x.topic_id AND m.id = x.msg_id
   ORDER BY x.msg_id $$;

-- A person decides on them: R try again with fresh attempts, D to the dead letters, F give up. '' or why not, for each.
CREATE OR REPLACE FUNCTION mq_stopped_decide(p_group bigint, p_ids bigint[], p_decision "char", p_reason text) RETURNS TABLE (message_id bigint, refusal text)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
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

-- What is held back expires as what waits, as long as nobody has redriven it.
CREATE OR REPLACE FUNCTION mq_take_out_held(p_group bigint, p_most int) RETURNS int LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE k int;
BEGIN
  IF NOT EXISTS (SELECT FROM mq_cursor c WHERE c.group_id = p_group AND c.held > 0) THEN RETURN 0; END IF;
  WITH old AS (
    UPDATE mq_exception e SET status = 'D', last_at = clock_timestamp(), error = 'expired', okey = CASE WHEN o.ordering > 0 THEN e.okey END FROM (
      SELECT b.msg_id, c.ordering FROM mq_exception b JOIN mq_cursor c ON c.group_id = p_group AND c.topic_id = b.topic_id JOIN mq_limit x ON x.topic_id = b.topic_id AND x.expired_id >= b.msg_id
       WHERE b.group_id = p_group AND b.okey IS NOT NULL AND b.status = 'B' AND b.redrives = 0 LIMIT p_most) o
     WHERE e.group_id = p_group AND e.msg_id = o.msg_id RETURNING e.topic_id),
  counted AS (
    UPDATE mq_cursor c SET held = c.held - x.n, dead = c.dead + x.n FROM (SELECT topic_id, count(*) AS n FROM old GROUP BY 1) x
     WHERE c.group_id = p_group AND c.topic_id = x.topic_id)
  SELECT count(*) INTO k FROM old;
  RETURN k;
END $$;
