-- Reads about one message: its status in every group, and its life.

-- The topic of an id: the partition is known from the id, its topics are walked by an index skip scan, in one statement. One statement
-- for each topic took half a second where ten thousand topics had sent.
CREATE OR REPLACE FUNCTION mq_topic_of(p_id bigint) RETURNS bigint STABLE LANGUAGE plpgsql AS $$
DECLARE v_name text; v_found bigint;
BEGIN
  SELECT p.partition::text INTO v_name FROM mq_partitions('mq_message') p WHERE p_id >= p.lo::bigint AND p_id < p.hi::bigint;
  IF v_name IS NULL THEN RETURN NULL; END IF;
  EXECUTE format('WITH RECURSIVE t (topic_id) AS (
      (SELECT topic_id FROM %1$s ORDER BY topic_id, id LIMIT 1)
      UNION ALL
      SELECT n.topic_id FROM t CROSS JOIN LATERAL (
        SELECT p.topic_id FROM %1$s p WHERE p.topic_id > t.topic_id ORDER BY p.topic_id, p.id LIMIT 1) n)
    SELECT t.topic_id FROM t WHERE EXISTS (SELECT FROM %1$s m WHERE m.topic_id = t.topic_id AND m.id = $1) LIMIT 1', v_name)
    INTO v_found USING p_id;
  RETURN v_found;
END $$;

-- Status of one message in every group of its topic. Succeeded means an accepted ack inside a delivered span: the absence of an
-- exception alone proves nothing. W waiting, P processing, S succeeded, L later, D dead, F failed, K skipped, N not subscribed.
CREATE OR REPLACE FUNCTION mq_status(p_topic bigint, p_id bigint) RETURNS TABLE (group_id bigint, status text, attempts int, error text,
    next_retry_at timestamptz, consumer text, pulled_at timestamptz, settled_at timestamptz, lease_until timestamptz) STABLE LANGUAGE sql AS $$
  SELECT c.group_id, s.status,
    CASE s.status WHEN 'W' THEN coalesce(e.attempts, 0) WHEN 'K' THEN 0 WHEN 'N' THEN 0 WHEN 'S' THEN coalesce(hr.attempts, 1)
                  WHEN 'P' THEN coalesce(e.attempts, 0) + 1 ELSE e.attempts END,
    e.error, CASE WHEN e.status = 'L' THEN e.due_at END,
    coalesce(e.consumer, l.consumer, hr.consumer, hf.consumer), coalesce(e.pulled_at, l.pulled_at, hr.pulled_at, hf.pulled_at),
    CASE WHEN s.status = 'S' THEN coalesce(hr.settled_at, hf.settled_at) WHEN s.status IN ('D', 'F') THEN e.last_at END,
    CASE WHEN s.status = 'P' THEN coalesce(e.lease_until, l.lease_until) END
  FROM mq_cursor c
  JOIN mq_message m ON m.topic_id = p_topic AND m.id = p_id
  LEFT JOIN mq_exception e ON e.group_id = c.group_id AND e.msg_id = p_id
  LEFT JOIN LATERAL (SELECT z.* FROM mq_span z WHERE z.group_id = c.group_id AND z.topic_id = p_topic AND z.lo < p_id AND (z.hi IS NULL OR z.hi >= p_id)
                      ORDER BY z.lo DESC LIMIT 1) sp ON true
  LEFT JOIN LATERAL (SELECT z.* FROM mq_lease z WHERE z.group_id = c.group_id AND z.topic_id = p_topic AND z.lo < p_id AND z.hi >= p_id
                        AND (z.tags IS NULL OR mq_has_tag(m.tag, z.tags)) LIMIT 1) l ON e.group_id IS NULL
  LEFT JOIN LATERAL (SELECT z.* FROM mq_history z WHERE z.group_id = c.group_id AND z.topic_id = p_topic AND z.retried AND z.hi = p_id AND z.era >= sp.era
                      ORDER BY z.settled_at DESC LIMIT 1) hr ON e.group_id IS NULL
  LEFT JOIN LATERAL (SELECT y.* FROM (SELECT * FROM mq_history z WHERE z.group_id = c.group_id AND z.topic_id = p_topic AND NOT z.retried AND z.hi >= p_id AND z.era >= sp.era
                      ORDER BY z.hi LIMIT 1) y WHERE y.lo < p_id) hf ON e.group_id IS NULL AND l.group_id IS NULL AND hr.group_id IS NULL
  LEFT JOIN LATERAL (SELECT count(*)::int AS pos FROM mq_message x WHERE x.topic_id = p_topic AND x.id > coalesce(l.lo, hf.lo) AND x.id < p_id
                        AND (CASE WHEN l.group_id IS NOT NULL THEN l.tags ELSE sp.tags END IS NULL
                          OR mq_has_tag(x.tag, CASE WHEN l.group_id IS NOT NULL THEN l.tags ELSE sp.tags END))) p ON coalesce(l.acked, hf.acked) IS NOT NULL
  CROSS JOIN LATERAL (SELECT CASE
      WHEN e.status = 'B' THEN 'W'
      WHEN e.group_id IS NOT NULL THEN e.status::text
      WHEN sp.kind IS NULL OR sp.kind = 'N' OR (sp.tags IS NOT NULL AND NOT mq_has_tag(m.tag, sp.tags)) THEN 'N'
      WHEN sp.kind = 'K' THEN 'K'
      WHEN p_id > c.pos THEN 'W'
      WHEN hr.group_id IS NOT NULL THEN 'S'
      WHEN l.group_id IS NOT NULL THEN CASE WHEN l.acked IS NOT NULL AND get_bit(l.acked, 2 * p.pos + 1) = 1 THEN 'S' ELSE 'P' END
      WHEN hf.group_id IS NOT NULL AND (hf.acked IS NULL OR get_bit(hf.acked, 2 * p.pos + 1) = 1) THEN 'S'
      ELSE 'K' END AS status) s
  WHERE c.topic_id = p_topic
  ORDER BY c.group_id $$;

-- What the store knows of a message's life in each group of its topic, from what it keeps anyway: finished and running leases, the message's
-- exception, successes after a retry. Tries between the first and the last failure are not kept; their number is.
CREATE OR REPLACE FUNCTION mq_trace(p_topic bigint, p_id bigint) RETURNS TABLE (group_id bigint, at timestamptz, event text, consumer text, attempt int, detail text)
STABLE LANGUAGE sql AS $$
  WITH m AS MATERIALIZED (SELECT x.id, x.tag FROM mq_message x WHERE x.topic_id = p_topic AND x.id = p_id),
  leased AS (
    SELECT l.*, e.msg_id IS NOT NULL AS excepted,
           CASE WHEN l.acked IS NOT NULL THEN (SELECT count(*)::int FROM mq_message x WHERE x.topic_id = p_topic AND x.id > l.lo AND x.id < p_id
                                                  AND (l.tags IS NULL OR mq_has_tag(x.tag, l.tags))) END AS pos
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
      JOIN m ON l.tags IS NULL OR mq_has_tag(m.tag, l.tags)
      LEFT JOIN mq_exception e ON e.group_id = l.group_id AND e.msg_id = p_id),
  held AS MATERIALIZED (   -- a lease does not have what was held back, or parked for another worker, in its range
    SELECT l.* FROM leased l WHERE NOT (l.pos IS NOT NULL AND get_bit(l.acked, 2 * l.pos) = 1 AND get_bit(l.acked, 2 * l.pos + 1) = 0 AND EXISTS (
      SELECT FROM mq_cursor c JOIN mq_group g ON g.group_id = c.group_id WHERE c.group_id = l.group_id AND c.topic_id = p_topic AND (c.ordering > 0 OR g.dealt > 0)
         AND (EXISTS (SELECT FROM mq_exception e WHERE e.group_id = l.group_id AND e.msg_id = p_id AND e.attempts = 0 AND e.error IS NULL)
           OR EXISTS (SELECT FROM mq_history h WHERE h.group_id = l.group_id AND h.topic_id = p_topic AND h.retried AND h.hi = p_id AND h.attempts = 1))))),
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
  SELECT x.group_id, x.first_at, 'failed', CASE WHEN x.last_at = x.first_at THEN x.consumer END, 1, CASE WHEN x.last_at = x.first_at THEN x.error END FROM wrong x WHERE x.pulled_at IS NOT NULL
     AND (coalesce(x.okey, x.slot) IS NULL OR x.attempts > 0 OR x.error IS NOT NULL)   -- one that was only held back has not failed
  UNION ALL
  SELECT x.group_id, x.pulled_at, 'pulled', x.consumer, x.attempts + (x.status = 'P')::int, NULL
    FROM wrong x WHERE x.pulled_at > x.first_at
  UNION ALL
  SELECT x.group_id, x.last_at, 'failed', x.consumer, x.attempts, x.error FROM wrong x WHERE x.last_at > x.first_at AND x.status NOT IN ('F', 'B') AND x.error IS DISTINCT FROM 'expired'
  UNION ALL
  SELECT x.group_id, x.last_at, CASE x.status WHEN 'D' THEN 'dead' ELSE 'given_up' END, NULL, x.attempts, x.error FROM wrong x WHERE x.status IN ('D', 'F')
  UNION ALL
  SELECT x.group_id, x.due_at, 'retry', NULL, x.attempts + 1, NULL FROM wrong x WHERE x.status = 'L' AND x.due_at IS NOT NULL $$;
