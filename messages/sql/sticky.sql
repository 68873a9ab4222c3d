-- Sticky load balance: of a sticky group, messages with a sharding key go to the worker that has the key.
--
-- A worker's key is a hash of the sharding key (of a topic that is ordered as a whole: of the topic); its last eight bits are a slot, and the
-- 256 slots are dealt out to the workers that are there (mq_worker). What a pull passes because it belongs to another worker is parked: an
-- exception B with its slot, from which its worker takes first. A parked message of an unordered topic has its worker's key as okey, as long as
-- it is parked. Whose a message is is judged where it is handed out, under the group's lock, so a deal changes no message.

-- What stickiness goes by; NULL: anybody's.
CREATE OR REPLACE FUNCTION mq_wkey(p_ordering smallint, p_topic bigint, p_skey text) RETURNS bigint IMMUTABLE LANGUAGE sql AS
$$ SELECT CASE p_ordering WHEN 2 THEN hashint8extended(p_topic, 0) ELSE hashtextextended(p_skey, 0) END $$;

CREATE OR REPLACE FUNCTION mq_slot(p_wkey bigint) RETURNS smallint IMMUTABLE LANGUAGE sql AS $$ SELECT (p_wkey & 255)::smallint $$;

-- What is in the workers' hands, leases that ran out included until they are taken back. Reads all those messages: for a deal, not for a pull.
CREATE OR REPLACE FUNCTION mq_hands(p_group bigint) RETURNS TABLE (token bigint, consumer text, wkey bigint) STABLE LANGUAGE sql AS $$
  SELECT l.token, l.consumer, mq_wkey(c.ordering, l.topic_id, m.skey) FROM mq_lease l
    JOIN mq_cursor c ON c.group_id = l.group_id AND c.topic_id = l.topic_id
   CROSS JOIN LATERAL (SELECT x.skey, l.n - count(*) OVER () + row_number() OVER (ORDER BY x.id) - 1 AS pos FROM mq_message x
                        WHERE x.topic_id = l.topic_id AND x.id > l.lo AND x.id <= l.hi AND (l.tags IS NULL OR mq_has_tag(x.tag, l.tags))) m
   WHERE l.group_id = p_group AND (l.acked IS NULL OR get_bit(l.acked, 2 * m.pos::int) = 0)
  UNION ALL
  SELECT e.token, e.consumer, mq_wkey(c.ordering, e.topic_id, m.skey) FROM mq_exception e
    JOIN mq_cursor c ON c.group_id = e.group_id AND c.topic_id = e.topic_id
    JOIN mq_message m ON m.topic_id = e.topic_id AND m.id = e.msg_id
   WHERE e.group_id = p_group AND e.status = 'P' $$;

-- Deal the slots out anew, with the fewest moves: whoever has more than its share gives the rest away. A key that moves while its old
-- worker has one of its messages in hand is kept back (mq_moved) until that lease is done. With the group's row locked.
CREATE OR REPLACE FUNCTION mq_deal(p_group bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE mq_group g SET dealt = g.dealt + 1 WHERE g.group_id = p_group;
  WITH had AS MATERIALIZED (
    SELECT w.worker_id, w.slots, 256 / count(*) OVER () + (row_number() OVER (ORDER BY cardinality(w.slots) DESC, w.worker_id) <= 256 % count(*) OVER ())::int AS share
      FROM mq_worker w WHERE w.group_id = p_group),
  kept AS MATERIALIZED (SELECT h.worker_id, h.slots[1:h.share] AS slots, h.share FROM had h),
  free AS (SELECT s.slot::smallint AS slot, row_number() OVER (ORDER BY s.slot) AS nth FROM generate_series(0, 255) s(slot)
            WHERE NOT EXISTS (SELECT FROM kept k WHERE s.slot = ANY (k.slots))),
  lacks AS (SELECT k.worker_id, k.slots, k.share - cardinality(k.slots) AS n, sum(k.share - cardinality(k.slots)) OVER (ORDER BY k.worker_id) AS upto FROM kept k),
  dealt AS (SELECT l.worker_id, l.slots || coalesce(array_agg(f.slot ORDER BY f.slot) FILTER (WHERE f.slot IS NOT NULL), '{}') AS slots
              FROM lacks l LEFT JOIN free f ON f.nth > l.upto - l.n AND f.nth <= l.upto GROUP BY l.worker_id, l.slots)
  UPDATE mq_worker w SET slots = d.slots FROM dealt d WHERE w.worker_id = d.worker_id AND w.slots <> d.slots;
  DELETE FROM mq_moved m WHERE m.group_id = p_group;
  INSERT INTO mq_moved (group_id, token, wkeys, consumer)
    SELECT p_group, h.token, array_agg(DISTINCT h.wkey), h.consumer FROM mq_hands(p_group) h
      LEFT JOIN mq_worker w ON w.group_id = p_group AND w.name = h.consumer
     WHERE h.wkey IS NOT NULL AND (w.worker_id IS NULL OR mq_slot(h.wkey) <> ALL (w.slots)) GROUP BY h.token, h.consumer;
END $$;

-- Keys that others than this worker have in hand although they are not theirs any more.
CREATE OR REPLACE FUNCTION mq_kept_back(p_group bigint, p_name text) RETURNS bigint[] STABLE LANGUAGE sql AS $$
  SELECT coalesce(array_agg(DISTINCT k.wkey), '{}') FROM mq_moved m CROSS JOIN LATERAL unnest(m.wkeys) k(wkey)
   WHERE m.group_id = p_group AND m.consumer <> p_name
     AND (EXISTS (SELECT FROM mq_lease l WHERE l.group_id = p_group AND l.token = m.token)
       OR EXISTS (SELECT FROM mq_exception e WHERE e.group_id = p_group AND e.token = m.token AND e.status = 'P')) $$;

-- A worker asks for messages: its id and its slots, dealt at its first time, and the keys among them that it has to leave alone for now.
-- problem: consumer_required, too_many_workers. With the group's row locked.
CREATE OR REPLACE FUNCTION mq_worker_asks(p_group bigint, p_name text, OUT worker bigint, OUT slots smallint[], OUT busy bigint[], OUT problem text)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE v_now timestamptz := clock_timestamp(); v_seen timestamptz;
BEGIN
  SELECT w.worker_id, w.slots, w.seen_at INTO worker, mq_worker_asks.slots, v_seen FROM mq_worker w WHERE w.group_id = p_group AND w.name = p_name;
  IF worker IS NULL THEN
    problem := CASE WHEN p_name = '' THEN 'consumer_required'
                    WHEN (SELECT count(*) FROM mq_worker w WHERE w.group_id = p_group) >= 1000 THEN 'too_many_workers' END;
    IF problem IS NOT NULL THEN RETURN; END IF;
    worker := nextval('mq_worker_seq');
    INSERT INTO mq_worker (worker_id, group_id, name) VALUES (worker, p_group, p_name);
    PERFORM mq_deal(p_group);
    SELECT w.slots INTO mq_worker_asks.slots FROM mq_worker w WHERE w.worker_id = worker;
  ELSIF v_seen < v_now - interval '5 seconds' THEN
    UPDATE mq_worker w SET seen_at = v_now WHERE w.worker_id = worker;
  END IF;
  busy := '{}';
  IF EXISTS (SELECT FROM mq_moved m WHERE m.group_id = p_group) THEN
    DELETE FROM mq_moved m WHERE m.group_id = p_group AND NOT EXISTS (SELECT FROM mq_lease l WHERE l.group_id = p_group AND l.token = m.token)
       AND NOT EXISTS (SELECT FROM mq_exception e WHERE e.group_id = p_group AND e.token = m.token AND e.status = 'P');
    busy := mq_kept_back(p_group, p_name);
  END IF;
END $$;

-- Of these messages, which are exceptions of the group, those that are not this worker's now, with their keys.
CREATE OR REPLACE FUNCTION mq_not_mine(p_group bigint, p_ids bigint[], p_slots smallint[], p_busy bigint[]) RETURNS TABLE (msg_id bigint, topic_id bigint, wkey bigint, okey bigint)
STABLE LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
    WITH topics AS MATERIALIZED (SELECT c.topic_id, c.ordering FROM mq_cursors(p_group) c)   -- once, not for each message
    SELECT e.msg_id, e.topic_id, k.wkey, CASE WHEN c.ordering > 0 THEN e.okey ELSE k.wkey END
      FROM unnest(p_ids) u(id) JOIN mq_exception e ON e.group_id = p_group AND e.msg_id = u.id JOIN topics c ON c.topic_id = e.topic_id
      LEFT JOIN LATERAL (SELECT m.skey FROM mq_message m WHERE m.topic_id = e.topic_id AND m.id = e.msg_id LIMIT 1) m ON true
     CROSS JOIN LATERAL (SELECT mq_wkey(c.ordering, e.topic_id, m.skey) AS wkey) k
     WHERE k.wkey IS NOT NULL AND (mq_slot(k.wkey) <> ALL (p_slots) OR k.wkey = ANY (p_busy));
END $$;

-- Retries that belong to another worker wait for it.
CREATE OR REPLACE FUNCTION mq_park(p_group bigint, p_ids bigint[], p_wkeys bigint[], p_okeys bigint[]) RETURNS void LANGUAGE sql AS $$
  WITH away AS (
    UPDATE mq_exception e SET status = 'B', due_at = NULL, slot = mq_slot(u.wkey), okey = u.okey FROM unnest(p_ids, p_wkeys, p_okeys) u(id, wkey, okey)
     WHERE e.group_id = p_group AND e.msg_id = u.id RETURNING e.topic_id)
  UPDATE mq_cursor c SET later = c.later - x.n, held = c.held + x.n, uses = (c.uses + 1) % 32, rev = c.rev + (c.uses = 31)::int FROM (SELECT topic_id, count(*) AS n FROM away GROUP BY 1) x
   WHERE c.group_id = p_group AND c.topic_id = x.topic_id AND c.rev = (SELECT y.rev FROM mq_cursor y WHERE y.group_id = p_group AND y.topic_id = x.topic_id ORDER BY y.rev DESC LIMIT 1) $$;

-- What is parked for a worker becomes due, p_limit messages at most; of an ordered topic when its key's turn has come. How many it was.
CREATE OR REPLACE FUNCTION mq_unpark(p_group bigint, p_slots smallint[], p_busy bigint[], p_now timestamptz, p_limit int) RETURNS int
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE k int; v_keys bigint[];
BEGIN
  WITH mine AS MATERIALIZED (
    SELECT b.msg_id FROM unnest(p_slots) s(slot) CROSS JOIN LATERAL (
      SELECT e.msg_id FROM mq_exception e WHERE e.group_id = p_group AND e.slot = s.slot AND e.slot IS NOT NULL AND e.status = 'B' AND e.okey <> ALL (p_busy)
       ORDER BY e.msg_id LIMIT p_limit) b ORDER BY b.msg_id LIMIT p_limit),
  topics AS MATERIALIZED (SELECT c.topic_id, c.ordering FROM mq_cursors(p_group) c),   -- once, not for each message
  go AS (
    UPDATE mq_exception e SET status = CASE WHEN c.ordering > 0 THEN 'B' ELSE 'L' END::"char", due_at = CASE WHEN c.ordering > 0 THEN NULL ELSE p_now END,
           slot = CASE WHEN c.ordering > 0 THEN NULL ELSE e.slot END, okey = CASE WHEN c.ordering > 0 THEN e.okey END
      FROM mine m, topics c WHERE e.group_id = p_group AND e.msg_id = m.msg_id AND c.topic_id = e.topic_id
    RETURNING e.topic_id, e.status, e.okey),
  counted AS (
    UPDATE mq_cursor c SET held = c.held - x.n, later = c.later + x.n, uses = (c.uses + 1) % 32, rev = c.rev + (c.uses = 31)::int
      FROM (SELECT topic_id, count(*) AS n FROM go WHERE status = 'L' GROUP BY 1) x
     WHERE c.group_id = p_group AND c.topic_id = x.topic_id AND c.rev = (SELECT y.rev FROM mq_cursor y WHERE y.group_id = p_group AND y.topic_id = x.topic_id ORDER BY y.rev DESC LIMIT 1))
  SELECT count(*), array_agg(g.okey) FILTER (WHERE g.okey IS NOT NULL) INTO k, v_keys FROM go g;
  IF v_keys IS NOT NULL THEN PERFORM mq_release(p_group, v_keys, p_now); END IF;
  RETURN k;
END $$;

-- Everything that is parked is anybody's again: the group shares its messages.
CREATE OR REPLACE FUNCTION mq_unpark_all(p_group bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  WHILE mq_unpark(p_group, ARRAY(SELECT s::smallint FROM generate_series(0, 255) s), '{}', clock_timestamp(), 10000) > 0 LOOP END LOOP;
END $$;

-- Of what is due the first that this worker may have, at most p_limit: retries, then what was parked for it. What belongs to others is parked.
CREATE OR REPLACE FUNCTION mq_sticky_due(p_group bigint, p_slots smallint[], p_busy bigint[], p_ordered boolean, p_from timestamptz, p_now timestamptz, p_limit int) RETURNS bigint[]
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE v_ids bigint[] := '{}'; v_not bigint[]; v_wkeys bigint[]; v_okeys bigint[]; v_looked boolean := false; v_single boolean;
BEGIN
  FOR i IN 1..20 LOOP
    v_single := NULL;
    IF p_ordered THEN
      v_ids := mq_order_due(p_group, p_now, p_limit);
    ELSE   -- look further than needed: whoever has many retries that wait for another worker should not park them one by one
      v_ids := ARRAY(SELECT e.msg_id FROM mq_exception e WHERE e.group_id = p_group AND e.status = 'L' AND e.due_at <= p_now
                      AND e.due_at >= mq_due_from(p_from, p_now) ORDER BY e.due_at, e.msg_id LIMIT greatest(p_limit, 200));
    END IF;
    IF v_ids <> '{}' THEN
      SELECT array_agg(n.msg_id), array_agg(n.wkey), array_agg(n.okey) INTO v_not, v_wkeys, v_okeys FROM mq_not_mine(p_group, v_ids, p_slots, p_busy) n;
      IF v_not IS NOT NULL THEN
        PERFORM mq_park(p_group, v_not, v_wkeys, v_okeys);
        v_ids := ARRAY(SELECT u.id FROM unnest(v_ids) WITH ORDINALITY u(id, nth) WHERE u.id <> ALL (v_not) ORDER BY u.nth);
        IF cardinality(v_ids) < p_limit THEN CONTINUE; END IF;   -- there may be more behind them
      END IF;
      SELECT e.single INTO v_single FROM mq_exception e WHERE e.group_id = p_group AND e.msg_id = v_ids[1];
    END IF;
    EXIT WHEN v_looked OR v_single OR cardinality(v_ids) >= p_limit OR NOT EXISTS (SELECT FROM mq_cursors(p_group) c WHERE c.held > 0);
    v_looked := true;
    EXIT WHEN mq_unpark(p_group, p_slots, p_busy, p_now, p_limit - cardinality(v_ids)) = 0;
  END LOOP;
  RETURN v_ids[1:p_limit];
END $$;

-- What a worker would be handed out next from a position, p_limit messages at most: of as many as should have p_limit of its own (or anybody's)
-- those that are; if none is, the first ones of the next thousand. The others up to hi are parked (hslots), as long as no more than 10,000 are held back; of an ordered topic those
-- whose key is busy are held back (hslots NULL). A thousand without one of its own are passed, so that it gets on. stuck: it cannot.
CREATE OR REPLACE FUNCTION mq_sticky_look(c mq_cursor, p_slots smallint[], p_busy bigint[], p_limit int, p_closed bigint, p_bytes bigint,
  OUT hi bigint, OUT taken int, OUT bytes bigint, OUT okeys bigint[], OUT acked varbit, OUT held bigint[], OUT hkeys bigint[], OUT seen bigint,
  OUT hslots smallint[], OUT stuck boolean) STABLE LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_nestloop = off AS $$
DECLARE v_hand bigint[] := CASE WHEN c.ordering > 0 THEN mq_in_hand(c.group_id) ELSE '{}' END; v_any boolean := c.ordering > 0 AND c.held + c.later > 0;
        v_room bigint := 10000 - c.held; v_window int; v_n int; v_mine boolean;
        v_first int := least(1000, p_limit * ceil(256.0 / greatest(cardinality(p_slots), 1)));   -- its share of so many is p_limit
BEGIN
  FOREACH v_window IN ARRAY CASE WHEN v_first < 1000 THEN ARRAY[v_first, 1000] ELSE ARRAY[1000] END LOOP
    WITH next AS MATERIALIZED (
      SELECT m.id, m.len, mq_okey(c.ordering, c.topic_id, m.skey) AS okey, mq_wkey(c.ordering, c.topic_id, m.skey) AS wkey FROM (
        SELECT x.id, x.tag, x.skey, octet_length(x.body) AS len FROM mq_message x
         WHERE x.topic_id = c.topic_id AND x.id > c.pos AND x.id <= p_closed ORDER BY x.id
         LIMIT CASE WHEN c.tags IS NULL THEN v_window ELSE 5000 END) m
       WHERE c.tags IS NULL OR mq_has_tag(m.tag, c.tags) LIMIT v_window),
    others AS MATERIALIZED (
      SELECT k.wkey FROM (SELECT DISTINCT n.wkey FROM next n WHERE n.wkey IS NOT NULL) k
        LEFT JOIN unnest(p_slots) s(slot) ON s.slot = mq_slot(k.wkey) LEFT JOIN unnest(p_busy) b(wkey) ON b.wkey = k.wkey
       WHERE s.slot IS NULL OR b.wkey IS NOT NULL),
    busy AS MATERIALIZED (
      SELECT k.okey FROM (SELECT DISTINCT n.okey FROM next n WHERE n.okey IS NOT NULL) k LEFT JOIN unnest(v_hand) h(okey) ON h.okey = k.okey
       WHERE h.okey IS NOT NULL OR (v_any AND EXISTS (
         SELECT FROM mq_exception e WHERE e.group_id = c.group_id AND e.okey = k.okey AND e.status IN ('L', 'P', 'B')))),
    judged AS MATERIALIZED (
      SELECT n.id, n.len, n.okey, n.wkey, o.wkey IS NOT NULL AS other, x.no AS blocked, count(*) FILTER (WHERE NOT x.no) OVER w AS nth,
             count(*) FILTER (WHERE x.no) OVER w AS passed, sum(CASE WHEN x.no THEN 0 ELSE n.len END) OVER w AS bytes
        FROM next n LEFT JOIN others o ON o.wkey = n.wkey LEFT JOIN busy b ON b.okey = n.okey
       CROSS JOIN LATERAL (SELECT o.wkey IS NOT NULL OR b.okey IS NOT NULL AS no) x WINDOW w AS (ORDER BY n.id)),
    bound AS (
      SELECT max(j.id) FILTER (WHERE NOT j.blocked AND j.nth <= p_limit AND j.bytes - j.len < p_bytes AND j.passed <= v_room) AS hi,
             max(j.id) FILTER (WHERE j.passed <= v_room) AS upto, count(*) AS n, coalesce(bool_or(NOT j.blocked), false) AS mine FROM judged j)
    SELECT d.n, d.mine, d.hi, count(*) FILTER (WHERE NOT j.blocked), sum(j.len) FILTER (WHERE NOT j.blocked),
           array_agg(CASE WHEN NOT j.blocked THEN j.okey END ORDER BY j.id),
           CASE WHEN bool_or(j.blocked) THEN string_agg(CASE WHEN j.blocked THEN '10' ELSE '00' END, '' ORDER BY j.id)::varbit END,
           array_agg(j.id ORDER BY j.id) FILTER (WHERE j.blocked),
           array_agg(CASE WHEN c.ordering > 0 THEN j.okey ELSE j.wkey END ORDER BY j.id) FILTER (WHERE j.blocked),
           array_agg(CASE WHEN j.other THEN mq_slot(j.wkey) END ORDER BY j.id) FILTER (WHERE j.blocked)
      INTO v_n, v_mine, hi, taken, bytes, okeys, acked, held, hkeys, hslots
      FROM bound d LEFT JOIN judged j ON j.id <= coalesce(d.hi, CASE WHEN d.n >= 1000 AND NOT d.mine THEN d.upto END) GROUP BY d.n, d.mine, d.hi, d.upto;
    EXIT WHEN hi IS NOT NULL OR v_n < v_window;
  END LOOP;
  stuck := hi IS NULL AND held IS NULL AND (v_mine OR v_n >= 1000);
  IF v_n = 0 AND c.tags IS NOT NULL THEN
    SELECT max(y.id) INTO seen FROM (SELECT x.id FROM mq_message x WHERE x.topic_id = c.topic_id AND x.id > c.pos AND x.id <= p_closed
                                      ORDER BY x.id LIMIT 5000) y HAVING count(*) >= 500;
  END IF;
END $$;

-- Which of the waiting workers has something to pull, as mq_ready for groups; one that is not known any more has to ask anew.
CREATE OR REPLACE FUNCTION mq_workers_ready(p_workers bigint[]) RETURNS SETOF bigint VOLATILE LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE w record; v_busy bigint[]; v_ids bigint[]; v_closed bigint := (SELECT h.closed_id FROM mq_horizon h ORDER BY h.rev DESC LIMIT 1);
BEGIN
  FOR w IN SELECT u.id, q.group_id, q.name, q.slots, q.worker_id IS NULL OR g.suspended OR g.retired OR NOT g.sticky AS ask,
                  g.max_outstanding > 0 AND g.max_outstanding <= (SELECT sum(x.processing) FROM mq_cursors(g.group_id) x) AS outstanding
             FROM unnest(p_workers) u(id) LEFT JOIN mq_worker q ON q.worker_id = u.id LEFT JOIN mq_group g ON g.group_id = q.group_id LOOP
    IF w.ask THEN RETURN NEXT w.id; END IF;
    CONTINUE WHEN w.ask OR w.outstanding;
    v_busy := mq_kept_back(w.group_id, w.name);
    v_ids := ARRAY(SELECT e.msg_id FROM mq_exception e WHERE e.group_id = w.group_id AND e.status = 'L' AND e.due_at <= clock_timestamp()
                    ORDER BY e.due_at, e.msg_id LIMIT 500);
    IF cardinality(v_ids) = 500 OR cardinality(v_ids) > (SELECT count(*) FROM mq_not_mine(w.group_id, v_ids, w.slots, v_busy))
       OR (EXISTS (SELECT FROM mq_cursors(w.group_id) c WHERE c.held > 0)
           AND EXISTS (SELECT FROM unnest(w.slots) s(slot) CROSS JOIN LATERAL (
                         SELECT FROM mq_exception e WHERE e.group_id = w.group_id AND e.slot = s.slot AND e.slot IS NOT NULL AND e.status = 'B'
                            AND e.okey <> ALL (v_busy) LIMIT 1) b))
       OR EXISTS (SELECT FROM mq_cursors(w.group_id) c CROSS JOIN LATERAL mq_sticky_look(c, w.slots, v_busy, 1, v_closed, 1) o
                   WHERE c.active AND c.pos < v_closed AND (o.hi IS NOT NULL OR o.held IS NOT NULL OR o.seen IS NOT NULL))
    THEN RETURN NEXT w.id; END IF;
  END LOOP;
END $$;

-- A worker has said goodbye: its slots go to the others, what is parked in them with them. False: it was not there.
CREATE OR REPLACE FUNCTION mq_worker_leave(p_group bigint, p_name text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM mq_group g WHERE g.group_id = p_group FOR NO KEY UPDATE;
  DELETE FROM mq_worker w WHERE w.group_id = p_group AND w.name = p_name;
  IF NOT FOUND THEN RETURN false; END IF;
  PERFORM mq_deal(p_group);
  RETURN true;
END $$;

-- The groups with workers that have not asked for so long.
CREATE OR REPLACE FUNCTION mq_silent_groups(p_silence interval) RETURNS SETOF bigint STABLE LANGUAGE sql AS $$
  SELECT DISTINCT w.group_id FROM mq_worker w WHERE w.seen_at < clock_timestamp() - p_silence ORDER BY 1 $$;

-- Let those go that have nothing in hand either: whoever works on what it has is there. How many.
CREATE OR REPLACE FUNCTION mq_workers_drop(p_group bigint, p_silence interval) RETURNS int LANGUAGE plpgsql AS $$
DECLARE k int; v_now timestamptz;
BEGIN
  PERFORM FROM mq_group g WHERE g.group_id = p_group FOR NO KEY UPDATE;
  v_now := clock_timestamp();
  DELETE FROM mq_worker w WHERE w.group_id = p_group AND w.seen_at < v_now - p_silence
     AND NOT EXISTS (SELECT FROM mq_lease l WHERE l.group_id = p_group AND l.consumer = w.name AND l.lease_until > v_now)
     AND NOT EXISTS (SELECT FROM mq_exception e WHERE e.group_id = p_group AND e.status = 'P' AND e.consumer = w.name AND e.lease_until > v_now);
  GET DIAGNOSTICS k = ROW_COUNT;
  IF k > 0 THEN PERFORM mq_deal(p_group); END IF;
  RETURN k;
END $$;

-- Shared or sticky, from now on. What was parked is anybody's again; what is in hand stays there.
CREATE OR REPLACE FUNCTION mq_group_balance(p_group bigint, p_sticky boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM mq_lock_group(p_group);
  UPDATE mq_group g SET sticky = p_sticky WHERE g.group_id = p_group AND g.sticky <> p_sticky;
  IF NOT FOUND OR p_sticky THEN RETURN; END IF;
  DELETE FROM mq_worker w WHERE w.group_id = p_group;
  DELETE FROM mq_moved m WHERE m.group_id = p_group;
  PERFORM mq_unpark_all(p_group);
END $$;

-- The workers of a group by name, after p_after: slots, what is parked for each and in its hands, and how many of its keys it waits for.
CREATE OR REPLACE FUNCTION mq_workers(p_group bigint, p_after text, p_limit int)
RETURNS TABLE (name text, joined_at timestamptz, seen_at timestamptz, slots int, parked bigint, processing bigint, awaited bigint) STABLE LANGUAGE sql AS $$
  SELECT w.name, w.joined_at, w.seen_at, cardinality(w.slots),
         (SELECT count(*) FROM mq_exception e WHERE e.group_id = p_group AND e.slot IS NOT NULL AND e.status = 'B' AND e.slot = ANY (w.slots)),
         (SELECT coalesce(sum(l.left_n), 0) FROM mq_lease l WHERE l.group_id = p_group AND l.consumer = w.name)
           + (SELECT count(*) FROM mq_exception e WHERE e.group_id = p_group AND e.status = 'P' AND e.consumer = w.name),
         (SELECT count(*) FROM unnest(mq_kept_back(p_group, w.name)) k(wkey) WHERE mq_slot(k.wkey) = ANY (w.slots))
    FROM mq_worker w WHERE w.group_id = p_group AND w.name > p_after ORDER BY w.name LIMIT p_limit $$;
