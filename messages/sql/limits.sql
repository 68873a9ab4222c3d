-- Time to live and maximum length of a topic: what a group has not taken when it is too old, or when too many wait behind it, becomes a
-- dead letter of that group, with the cause “expired” or “crowded_out”.

-- Set, change or take away (0) the limits of a topic. What is a dead letter already stays one.
CREATE OR REPLACE FUNCTION mq_limit_put(p_topic bigint, p_ttl_s bigint, p_max_length bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF p_ttl_s = 0 AND p_max_length = 0 THEN
    DELETE FROM mq_limit x WHERE x.topic_id = p_topic;
    RETURN;
  END IF;
  PERFORM FROM mq_group g WHERE g.group_id IN (SELECT c.group_id FROM mq_cursor c WHERE c.topic_id = p_topic) ORDER BY g.group_id FOR NO KEY UPDATE;
  INSERT INTO mq_limit AS x (topic_id, ttl_s, max_length) VALUES (p_topic, p_ttl_s, p_max_length)
    ON CONFLICT (topic_id) DO UPDATE SET ttl_s = p_ttl_s, max_length = p_max_length, expired_id = CASE WHEN x.ttl_s = p_ttl_s THEN x.expired_id ELSE 0 END;
  UPDATE mq_group g SET limited = true FROM mq_cursor c WHERE c.topic_id = p_topic AND c.group_id = g.group_id AND p_ttl_s > 0 AND NOT g.limited;
END $$;

-- A group that has just come in at the earliest message begins behind what has expired and behind the topic's floor: that has not been sent to
-- it. One that comes back to where it stood has skipped what has gone meanwhile.
CREATE OR REPLACE FUNCTION mq_limit_begin(p_group bigint, p_topic bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE v_first bigint := mq_retention_hold(p_topic); x mq_limit; c mq_cursor;
BEGIN
  SELECT * INTO x FROM mq_limit q WHERE q.topic_id = p_topic AND q.ttl_s > 0;
  IF FOUND THEN
    UPDATE mq_group g SET limited = true WHERE g.group_id = p_group AND NOT g.limited;
    v_first := greatest(v_first, x.expired_id);
  END IF;
  IF v_first = 0 THEN RETURN; END IF;
  SELECT * INTO c FROM mq_cursor q WHERE q.group_id = p_group AND q.topic_id = p_topic;
  IF c.pos = 0 AND c.filter_no = 1 AND c.era = 0 THEN
    UPDATE mq_cursor q SET pos = v_first WHERE q.group_id = p_group AND q.topic_id = p_topic;
    UPDATE mq_span s SET lo = v_first WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.lo = 0;
    INSERT INTO mq_span (group_id, topic_id, lo, hi, kind) VALUES (p_group, p_topic, 0, v_first, 'N');
  ELSE
    PERFORM mq_retention_pass(p_group, p_topic);
  END IF;
END $$;

-- Up to where a topic has expired; 0: nothing, or it has no time to live.
CREATE OR REPLACE FUNCTION mq_expired_to(p_topic bigint) RETURNS bigint STABLE LANGUAGE sql AS $$ SELECT coalesce((SELECT x.expired_id FROM mq_limit x WHERE x.topic_id = p_topic), 0) $$;

-- Look how far the topics have aged. The times of sending decide, in the order of the log: one probe where nothing is old enough.
CREATE OR REPLACE FUNCTION mq_age() RETURNS void LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE x record; v_closed bigint := (SELECT closed_id FROM mq_horizon); v_before timestamptz; v_id bigint;
BEGIN
  FOR x IN SELECT q.topic_id, q.ttl_s FROM mq_limit q JOIN LATERAL (
             SELECT m.sent_at FROM mq_message m WHERE m.topic_id = q.topic_id AND m.id > q.expired_id AND m.id <= v_closed ORDER BY m.id LIMIT 1) f ON true
            WHERE q.ttl_s > 0 AND f.sent_at < clock_timestamp() - q.ttl_s * interval '1 s' ORDER BY q.topic_id LOOP
    v_before := clock_timestamp() - x.ttl_s * interval '1 s';
    v_id := least(coalesce(mq_position_at(x.topic_id, v_before), v_closed), v_closed);
    UPDATE mq_limit q SET expired_id = v_id WHERE q.topic_id = x.topic_id AND q.ttl_s = x.ttl_s AND q.expired_id < v_id;
  END LOOP;
END $$;

-- Of what waits for a group of a topic up to p_upto, which is closed, the p_most oldest become dead letters; it looks at p_scan messages at
-- most, and the cursor remembers how far it got. One scan: a look-up of each victim by its id cost three times as much. The group's row is
-- locked. False: there was nothing to look at.
CREATE OR REPLACE FUNCTION mq_bury(p_group bigint, p_topic bigint, p_upto bigint, p_most bigint, p_cause text, p_scan int) RETURNS boolean LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE c mq_cursor; v_ids bigint[]; v_seen bigint; v_n int; v_dead int; v_pos bigint; v_now timestamptz := clock_timestamp();
BEGIN
  SELECT * INTO c FROM mq_cursor q WHERE q.group_id = p_group AND q.topic_id = p_topic AND q.active;
  IF c.pos IS NULL OR c.pos >= p_upto THEN RETURN false; END IF;
  SELECT array_agg(s.id ORDER BY s.id) FILTER (WHERE c.tags IS NULL OR mq_has_tag(s.tag, c.tags)), max(s.id), count(*) INTO v_ids, v_seen, v_n FROM (
    SELECT m.id, m.tag FROM mq_message m WHERE m.topic_id = p_topic AND m.id > c.pos AND m.id <= p_upto ORDER BY m.id LIMIT p_scan) s;
  v_pos := CASE WHEN cardinality(v_ids) > p_most THEN v_ids[p_most] WHEN v_n = p_scan THEN v_seen ELSE p_upto END;
  INSERT INTO mq_exception (group_id, msg_id, topic_id, first_at, last_at, attempts, lane, status, skey, error, okey)
    SELECT p_group, m.id, p_topic, v_now, v_now, 0, m.lane, 'D', CASE WHEN m.lane >= 0 THEN m.skey END, p_cause, mq_okey(c.ordering, p_topic, m.skey)
      FROM mq_message m
     WHERE m.topic_id = p_topic AND m.id > c.pos AND m.id <= v_pos AND (c.tags IS NULL OR mq_has_tag(m.tag, c.tags)) ORDER BY m.id;
  GET DIAGNOSTICS v_dead = ROW_COUNT;
  UPDATE mq_cursor q SET pos = v_pos, dead = q.dead + v_dead WHERE q.group_id = p_group AND q.topic_id = p_topic;
  RETURN v_n > 0;
END $$;

-- What has expired for a group, a step of it: what waits, and retries whose turn it is (one that a person has redriven is tried all the
-- same). The group's row is locked. True: something was done, and there may be more.
CREATE OR REPLACE FUNCTION mq_take_out(p_group bigint, p_most int DEFAULT 1000) RETURNS boolean LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE t record; v_now timestamptz := clock_timestamp(); k int; v_more boolean := false; v_keys bigint[];
BEGIN
  FOR t IN SELECT c.topic_id, x.expired_id FROM mq_cursor c JOIN mq_limit x ON x.topic_id = c.topic_id
            WHERE c.group_id = p_group AND c.active AND c.pos < x.expired_id ORDER BY c.topic_id LOOP
    v_more := mq_bury(p_group, t.topic_id, t.expired_id, p_most, 'expired', p_most) OR v_more;
  END LOOP;
  WITH due AS (SELECT e.msg_id, e.topic_id FROM mq_exception e WHERE e.group_id = p_group AND e.status = 'L' AND e.due_at <= v_now
                ORDER BY e.due_at, e.msg_id LIMIT p_most),
       old AS (UPDATE mq_exception e SET status = 'D', due_at = NULL, last_at = v_now, error = 'expired', token = NULL
                 FROM due JOIN mq_limit x ON x.topic_id = due.topic_id AND x.expired_id >= due.msg_id
                WHERE e.group_id = p_group AND e.msg_id = due.msg_id AND e.redrives = 0 RETURNING e.topic_id, e.okey),
       counted AS (UPDATE mq_cursor c SET later = c.later - o.n, dead = c.dead + o.n FROM (SELECT topic_id, count(*) AS n FROM old GROUP BY 1) o
                    WHERE c.group_id = p_group AND c.topic_id = o.topic_id)
  SELECT count(*), array_agg(okey) FILTER (WHERE okey IS NOT NULL) INTO k, v_keys FROM old;
  k := k + mq_take_out_held(p_group, p_most);
  IF v_keys IS NOT NULL THEN PERFORM mq_release(p_group, v_keys, v_now); END IF;
  RETURN v_more OR k > 0;
END $$;

-- The groups for which there is something to do: it is asked each second, and each group that it names is locked. Of groups with the same
-- filter the one with the lowest position has most, so each filter is counted once while nobody is beyond the length.
CREATE OR REPLACE FUNCTION mq_limited_groups() RETURNS SETOF bigint STABLE LANGUAGE sql AS $$
  WITH longest AS MATERIALIZED (
    SELECT c.topic_id, c.tags, min(c.pos) AS pos, x.max_length FROM mq_limit x JOIN mq_cursor c ON c.topic_id = x.topic_id AND c.active
     WHERE x.max_length > 0 GROUP BY c.topic_id, c.tags, x.max_length),
  beyond AS MATERIALIZED (SELECT l.* FROM longest l CROSS JOIN mq_horizon h WHERE mq_count(l.topic_id, l.pos, h.closed_id, l.tags) > l.max_length)
  SELECT DISTINCT c.group_id FROM mq_limit x JOIN mq_cursor c ON c.topic_id = x.topic_id AND c.active
   WHERE c.pos < x.expired_id
      OR EXISTS (SELECT FROM beyond b CROSS JOIN mq_horizon h WHERE b.topic_id = c.topic_id AND b.tags IS NOT DISTINCT FROM c.tags
                    AND mq_count(c.topic_id, c.pos, h.closed_id, c.tags) > b.max_length)
      OR (x.expired_id > 0 AND c.held > 0)
      OR (x.expired_id > 0 AND c.later > 0 AND EXISTS (
            SELECT FROM (SELECT e.topic_id, e.msg_id, e.redrives FROM mq_exception e WHERE e.group_id = c.group_id AND e.status = 'L'
                            AND e.due_at <= (SELECT clock_timestamp()) ORDER BY e.due_at, e.msg_id LIMIT 1000) d
             WHERE d.topic_id = c.topic_id AND d.msg_id <= x.expired_id AND d.redrives = 0))
   ORDER BY 1 $$;

-- A step for one group. True: there may be more.
CREATE OR REPLACE FUNCTION mq_enforce(p_group bigint, p_most int DEFAULT 1000) RETURNS boolean LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE t record; v_over bigint; v_closed bigint; v_more boolean;
BEGIN
  PERFORM FROM mq_group g WHERE g.group_id = p_group FOR NO KEY UPDATE;
  v_more := mq_take_out(p_group, p_most);
  SELECT closed_id INTO v_closed FROM mq_horizon;
  FOR t IN SELECT c.topic_id, c.pos, c.tags, x.max_length FROM mq_cursor c JOIN mq_limit x ON x.topic_id = c.topic_id AND x.max_length > 0
            WHERE c.group_id = p_group AND c.active AND c.pos < v_closed ORDER BY c.topic_id LOOP
    v_over := mq_count(t.topic_id, t.pos, v_closed, t.tags) - t.max_length;
    IF v_over > 0 THEN
      v_more := mq_bury(p_group, t.topic_id, v_closed, least(v_over, p_most), 'crowded_out', 2 * p_most) OR v_more;
    END IF;
  END LOOP;
  RETURN v_more;
END $$;
