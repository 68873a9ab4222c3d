-- What the store knows of a message's life in each group of its topic, from what it keeps anyway: finished and running leases, the message's
-- exception, successes after a retry. Tries between the first and the last failure are not kept; their number is.
CREATE FUNCTION mq_trace(p_topic bigint, p_id bigint) RETURNS TABLE (group_id bigint, at timestamptz, event text, consumer text, attempt int, detail text)
STABLE LANGUAGE sql AS $$
  WITH m AS MATERIALIZED (SELECT x.id, x.tag FROM mq_message x WHERE x.topic_id = p_topic AND x.id = p_id),
  held AS MATERIALIZED (
    SELECT l.*, e.msg_id IS NOT NULL AS excepted,
           CASE WHEN l.acked IS NOT NULL THEN (SELECT count(*)::int FROM mq_message x WHERE x.topic_id = p_topic AND x.id > l.lo AND x.id < p_id
                                                  AND (l.tags IS NULL OR x.tag = ANY (l.tags))) END AS pos
      FROM (
        SELECT c.group_id, h.lo, h.pulled_at, h.settled_at, h.expired, h.acked, h.consumer, sp.tags
          FROM mq_cursor c
         CROSS JOIN LATERAL (SELECT y.* FROM (SELECT * FROM mq_history z WHERE z.group_id = c.group_id AND z.topic_id = p_topic AND NOT z.retried AND z.hi >= p_id
                                               ORDER BY z.hi LIMIT 20) y WHERE y.lo < p_id) h
         CROSS JOIN LATERAL (SELECT s.tags FROM mq_span s WHERE s.group_id = c.group_id AND s.topic_id = p_topic AND s.kind = 'D' AND s.lo < p_id
                                AND (s.hi IS NULL OR s.hi >= p_id) ORDER BY s.lo DESC LIMIT 1) sp
         WHERE c.topic_id = p_topic
        UNION ALL
        SELECT l.group_id, l.lo, l.pulled_at, NULL, false, l.acked, l.consumer, l.tags
          FROM mq_cursor c JOIN mq_lease l ON l.group_id = c.group_id AND l.topic_id = p_topic AND l.lo < p_id AND l.hi >= p_id
         WHERE c.topic_id = p_topic) l
      JOIN m ON l.tags IS NULL OR m.tag = ANY (l.tags)
      LEFT JOIN mq_exception e ON e.group_id = l.group_id AND e.msg_id = p_id),
  wrong AS MATERIALIZED (
    SELECT e.* FROM mq_cursor c JOIN mq_exception e ON e.group_id = c.group_id AND e.msg_id = p_id JOIN m ON true WHERE c.topic_id = p_topic),
  again AS MATERIALIZED (
    SELECT h.* FROM mq_cursor c JOIN mq_history h ON h.group_id = c.group_id AND h.topic_id = p_topic AND h.retried AND h.hi = p_id JOIN m ON true
     WHERE c.topic_id = p_topic)
  SELECT x.group_id, x.pulled_at, 'pulled', x.consumer, 1, NULL FROM held x
  UNION ALL   -- what became of it under that lease; of a failure the exception knows more, as long as it is there
  SELECT x.group_id, x.settled_at, CASE WHEN x.acked IS NULL OR get_bit(x.acked, 2 * x.pos + 1) = 1 THEN 'succeeded'
                                        WHEN get_bit(x.acked, 2 * x.pos) = 1 THEN 'failed' ELSE 'lease_expired' END, x.consumer, 1, NULL
    FROM held x WHERE x.settled_at IS NOT NULL AND NOT (x.excepted AND x.acked IS NOT NULL AND get_bit(x.acked, 2 * x.pos + 1) = 0)
  UNION ALL
  SELECT x.group_id, x.pulled_at, 'pulled', x.consumer, x.attempts, NULL FROM again x
  UNION ALL
  SELECT x.group_id, x.settled_at, 'succeeded', x.consumer, x.attempts, NULL FROM again x
  UNION ALL
  SELECT x.group_id, x.first_at, 'failed', CASE WHEN x.last_at = x.first_at THEN x.consumer END, 1, CASE WHEN x.last_at = x.first_at THEN x.error END FROM wrong x
  UNION ALL
  SELECT x.group_id, x.pulled_at, 'pulled', x.consumer, x.attempts + (x.status = 'P')::int, NULL
    FROM wrong x WHERE x.pulled_at > x.first_at
  UNION ALL
  SELECT x.group_id, x.last_at, 'failed', x.consumer, x.attempts, x.error FROM wrong x WHERE x.last_at > x.first_at AND x.status <> 'F'
  UNION ALL
  SELECT x.group_id, x.last_at, CASE x.status WHEN 'D' THEN 'dead' ELSE 'given_up' END, NULL, x.attempts, x.error FROM wrong x WHERE x.status IN ('D', 'F')
  UNION ALL
  SELECT x.group_id, x.due_at, 'retry', NULL, x.attempts + 1, NULL FROM wrong x WHERE x.status = 'L' $$;
