-- Reads: counts, lag and the status of one message in every group.

-- Exact counts of many groups in one statement. Skipped while unsubscribed is added when the group comes back; until then it is
-- counted from the open stretch, so that nothing is counted twice.
CREATE FUNCTION mq_counts(p_groups bigint[]) RETURNS TABLE (group_id bigint, topic_id bigint, waiting bigint, processing bigint, succeeded bigint,
    later bigint, dead bigint, failed bigint, skipped bigint) STABLE LANGUAGE sql AS $$
  SELECT c.group_id, c.topic_id,
         CASE WHEN c.active THEN mq_count(c.topic_id, c.pos, 9223372036854775807, c.tags) ELSE 0 END,
         c.processing, c.succeeded, c.later, c.dead, c.failed,
         c.skipped + CASE WHEN c.active THEN 0 ELSE coalesce((SELECT sum(mq_count(c.topic_id, s.lo, s.hi, s.tags)) FROM mq_span s
           WHERE s.group_id = c.group_id AND s.topic_id = c.topic_id AND s.kind = 'K' AND s.lo >= c.pos), 0) END
    FROM mq_cursor c WHERE c.group_id = ANY (p_groups) $$;

-- How far behind: messages and when the oldest waiting one was sent.
CREATE FUNCTION mq_lag(p_groups bigint[]) RETURNS TABLE (group_id bigint, topic_id bigint, messages bigint, oldest timestamptz) STABLE LANGUAGE sql AS $$
  SELECT c.group_id, c.topic_id, mq_count(c.topic_id, c.pos, 9223372036854775807, c.tags),
         (SELECT m.sent_at FROM mq_message m WHERE m.topic_id = c.topic_id AND m.id > c.pos AND (c.tags IS NULL OR m.tag = ANY (c.tags)) ORDER BY m.id LIMIT 1)
    FROM mq_cursor c WHERE c.group_id = ANY (p_groups) AND c.active $$;

-- The topic of an id: the partition is known from the id, its topics are walked by an index skip scan.
CREATE FUNCTION mq_topic_of(p_id bigint) RETURNS bigint STABLE LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
DECLARE v_name text; v_topic bigint := -9223372036854775808; v_found bigint;
BEGIN
  SELECT p.partition::text INTO v_name FROM mq_partitions('mq_message') p WHERE p_id >= p.lo::bigint AND p_id < p.hi::bigint;
  IF v_name IS NULL THEN RETURN NULL; END IF;
  LOOP
    EXECUTE format('SELECT topic_id FROM %s WHERE topic_id > $1 ORDER BY topic_id, id LIMIT 1', v_name) INTO v_topic USING v_topic;
    IF v_topic IS NULL THEN RETURN NULL; END IF;
    EXECUTE format('SELECT topic_id FROM %s WHERE topic_id = $1 AND id = $2', v_name) INTO v_found USING v_topic, p_id;
    IF v_found IS NOT NULL THEN RETURN v_found; END IF;
  END LOOP;
END $$;

-- Status of one message in every group of its topic. Succeeded means an accepted ack inside a delivered span: the absence of an
-- exception alone proves nothing. W waiting, P processing, S succeeded, L later, D dead, F failed, K skipped, N not subscribed.
CREATE FUNCTION mq_status(p_topic bigint, p_id bigint) RETURNS TABLE (group_id bigint, status text, attempts int, error text,
    next_retry_at timestamptz, consumer text, pulled_at timestamptz, settled_at timestamptz, lease_until timestamptz) STABLE LANGUAGE sql AS $$
  SELECT c.group_id, s.status,
    CASE s.status WHEN 'W' THEN 0 WHEN 'K' THEN 0 WHEN 'N' THEN 0 WHEN 'S' THEN coalesce(hr.attempts, 1)
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
                        AND (z.tags IS NULL OR m.tag = ANY (z.tags)) LIMIT 1) l ON e.group_id IS NULL
  LEFT JOIN LATERAL (SELECT z.* FROM mq_history z WHERE z.group_id = c.group_id AND z.topic_id = p_topic AND z.retried AND z.hi = p_id
                      ORDER BY z.settled_at DESC LIMIT 1) hr ON e.group_id IS NULL
  LEFT JOIN LATERAL (SELECT y.* FROM (SELECT * FROM mq_history z WHERE z.group_id = c.group_id AND z.topic_id = p_topic AND NOT z.retried AND z.hi >= p_id
                      ORDER BY z.hi LIMIT 1) y WHERE y.lo < p_id) hf ON e.group_id IS NULL AND l.group_id IS NULL AND hr.group_id IS NULL
  LEFT JOIN LATERAL (SELECT count(*)::int AS pos FROM mq_message x WHERE x.topic_id = p_topic AND x.id > coalesce(l.lo, hf.lo) AND x.id < p_id
                        AND (CASE WHEN l.group_id IS NOT NULL THEN l.tags ELSE sp.tags END IS NULL
                          OR x.tag = ANY (CASE WHEN l.group_id IS NOT NULL THEN l.tags ELSE sp.tags END))) p ON coalesce(l.acked, hf.acked) IS NOT NULL
  CROSS JOIN LATERAL (SELECT CASE
      WHEN e.group_id IS NOT NULL THEN e.status::text
      WHEN sp.kind IS NULL OR sp.kind = 'N' OR (sp.tags IS NOT NULL AND NOT m.tag = ANY (sp.tags)) THEN 'N'
      WHEN sp.kind = 'K' THEN 'K'
      WHEN p_id > c.pos THEN 'W'
      WHEN hr.group_id IS NOT NULL THEN 'S'
      WHEN l.group_id IS NOT NULL THEN CASE WHEN l.acked IS NOT NULL AND get_bit(l.acked, 2 * p.pos + 1) = 1 THEN 'S' ELSE 'P' END
      WHEN hf.group_id IS NOT NULL AND (hf.acked IS NULL OR get_bit(hf.acked, 2 * p.pos + 1) = 1) THEN 'S'
      ELSE 'K' END AS status) s
  WHERE c.topic_id = p_topic
  ORDER BY c.group_id $$;
