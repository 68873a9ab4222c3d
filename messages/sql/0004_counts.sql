-- Counts and lag where topics and groups are many. Whatever was sent has an id at or below the sequence's last value: with that bound
-- the partitions made ahead of time are not looked at, which was nine tenths of the work.

-- Messages of a topic in (lo, hi] that match the tags; exact, from the counters and a short tail at both ends.
CREATE OR REPLACE FUNCTION mq_count(p_topic bigint, p_lo bigint, p_hi bigint, p_tags text[]) RETURNS bigint STABLE LANGUAGE plpgsql AS $$
DECLARE v_a bigint; v_b bigint; v_n bigint; v_m bigint := 0; v_tags text[] := coalesce(p_tags, '{*}');
        v_hi bigint := least(p_hi, (SELECT last_value FROM mq_id_seq));
BEGIN
  IF p_lo >= v_hi THEN RETURN 0; END IF;
  SELECT s.hi INTO v_a FROM mq_stat s WHERE s.topic_id = p_topic AND s.tag = '*' AND s.hi >= p_lo AND s.hi <= v_hi ORDER BY s.hi LIMIT 1;
  IF v_a IS NULL THEN
    SELECT count(*) INTO v_n FROM mq_message m WHERE m.topic_id = p_topic AND m.id > p_lo AND m.id <= v_hi AND (p_tags IS NULL OR m.tag = ANY (p_tags));
    RETURN v_n;
  END IF;
  SELECT s.hi INTO v_b FROM mq_stat s WHERE s.topic_id = p_topic AND s.tag = '*' AND s.hi <= v_hi ORDER BY s.hi DESC LIMIT 1;
  SELECT count(*) INTO v_n FROM mq_message m WHERE m.topic_id = p_topic AND m.id > p_lo AND m.id <= v_a AND (p_tags IS NULL OR m.tag = ANY (p_tags));
  SELECT v_n + count(*) INTO v_n FROM mq_message m WHERE m.topic_id = p_topic AND m.id > v_b AND m.id <= v_hi AND (p_tags IS NULL OR m.tag = ANY (p_tags));
  IF v_b > v_a THEN   -- a tag's newest row at or below a cut holds its count at that cut
    SELECT coalesce(sum(coalesce(b.cum, 0) - coalesce(a.cum, 0)), 0) INTO v_m FROM unnest(v_tags) t(tag)
      LEFT JOIN LATERAL (SELECT s.cum FROM mq_stat s WHERE s.topic_id = p_topic AND s.tag = t.tag AND s.hi <= v_b ORDER BY s.hi DESC LIMIT 1) b ON true
      LEFT JOIN LATERAL (SELECT s.cum FROM mq_stat s WHERE s.topic_id = p_topic AND s.tag = t.tag AND s.hi <= v_a ORDER BY s.hi DESC LIMIT 1) a ON true;
  END IF;
  RETURN v_n + v_m;
END $$;
ALTER FUNCTION mq_count SET plan_cache_mode = force_generic_plan;

-- How far behind: messages and when the oldest waiting one was sent; only subscriptions for which something waits. Nearly all of them
-- are at the end of their topic: one probe each tells so. Without enable_sort=off a long backlog is sorted to find its first message.
CREATE OR REPLACE FUNCTION mq_lag(p_groups bigint[]) RETURNS TABLE (group_id bigint, topic_id bigint, messages bigint, oldest timestamptz) STABLE LANGUAGE plpgsql
SET enable_sort = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE v_latest bigint := (SELECT last_value FROM mq_id_seq);
BEGIN
  RETURN QUERY
    SELECT c.group_id, c.topic_id, mq_count(c.topic_id, f.id - 1, v_latest, c.tags), f.sent_at FROM mq_cursor c
     CROSS JOIN LATERAL (SELECT m.id, m.sent_at FROM mq_message m WHERE m.topic_id = c.topic_id AND m.id > c.pos AND m.id <= v_latest
                            AND (c.tags IS NULL OR m.tag = ANY (c.tags)) ORDER BY m.id LIMIT 1) f
     WHERE c.group_id = ANY (p_groups) AND c.active;
END $$;

-- Exact counts of many groups in one statement. Skipped while unsubscribed is added when the group comes back; until then it is
-- counted from the open stretch, so that nothing is counted twice.
CREATE OR REPLACE FUNCTION mq_counts(p_groups bigint[]) RETURNS TABLE (group_id bigint, topic_id bigint, waiting bigint, processing bigint, succeeded bigint,
    later bigint, dead bigint, failed bigint, skipped bigint) STABLE LANGUAGE sql AS $$
  SELECT c.group_id, c.topic_id, coalesce(l.messages, 0), c.processing, c.succeeded, c.later, c.dead, c.failed,
         c.skipped + CASE WHEN c.active THEN 0 ELSE coalesce((SELECT sum(mq_count(c.topic_id, s.lo, s.hi, s.tags)) FROM mq_span s
           WHERE s.group_id = c.group_id AND s.topic_id = c.topic_id AND s.kind = 'K' AND s.lo >= c.pos), 0) END
    FROM mq_cursor c LEFT JOIN mq_lag(p_groups) l ON l.group_id = c.group_id AND l.topic_id = c.topic_id
   WHERE c.group_id = ANY (p_groups) $$;
