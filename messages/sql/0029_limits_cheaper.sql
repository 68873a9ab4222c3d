-- Limits where groups are many and much is beyond them.

-- As before, in one scan: a look-up of each victim by its id cost three times as much.
CREATE OR REPLACE FUNCTION mq_bury(p_group bigint, p_topic bigint, p_upto bigint, p_most bigint, p_cause text, p_scan int) RETURNS boolean LANGUAGE plpgsql AS $$
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
ALTER FUNCTION mq_bury SET plan_cache_mode = force_generic_plan;

-- As before, but only the groups for which there is something to do: it is asked each second, and each group that it names is locked. Of
-- groups with the same filter the one with the lowest position has most, so each filter is counted once while nobody is beyond the length.
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
                            AND e.due_at <= clock_timestamp() ORDER BY e.due_at, e.msg_id LIMIT 1000) d
             WHERE d.topic_id = c.topic_id AND d.msg_id <= x.expired_id AND d.redrives = 0))
   ORDER BY 1 $$;
