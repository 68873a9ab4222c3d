-- As before, but the groups are joined: thousands of them as an array to be searched for each cursor cost as much as the probes.
CREATE OR REPLACE FUNCTION mq_lag(p_groups bigint[]) RETURNS TABLE (group_id bigint, topic_id bigint, messages bigint, oldest timestamptz) STABLE LANGUAGE plpgsql
SET enable_sort = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE v_latest bigint := (SELECT last_value FROM mq_id_seq);
BEGIN
  RETURN QUERY
    SELECT c.group_id, c.topic_id, mq_count(c.topic_id, f.id - 1, v_latest, c.tags), f.sent_at
      FROM (SELECT DISTINCT x.id FROM unnest(p_groups) x(id)) g JOIN mq_cursor c ON c.group_id = g.id
     CROSS JOIN LATERAL (SELECT m.id, m.sent_at FROM mq_message m WHERE m.topic_id = c.topic_id AND m.id > c.pos AND m.id <= v_latest
                            AND (c.tags IS NULL OR m.tag = ANY (c.tags)) ORDER BY m.id LIMIT 1) f
     WHERE c.active;
END $$;
