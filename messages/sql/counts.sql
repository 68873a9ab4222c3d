-- Exact counts, lag and backlog, where topics and groups are many.

-- Messages of a topic in (lo, hi] that match the tags; exact, from the counters and a short tail at both ends. p_also: a second filter that
-- they must match too; what two filters let through is no list of tags. Whatever was sent has an id at or below the sequence's last value:
-- with that bound the partitions made ahead of time are not looked at, which was nine tenths of the work.
CREATE OR REPLACE FUNCTION mq_count(p_topic bigint, p_lo bigint, p_hi bigint, p_tags text[], p_also text[] DEFAULT NULL) RETURNS bigint STABLE LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE v_a bigint; v_b bigint; v_n bigint; v_m bigint := 0; v_tags text[] := '{*}'; v_hi bigint := least(p_hi, (SELECT last_value FROM mq_id_seq));
BEGIN
  IF p_lo >= v_hi THEN RETURN 0; END IF;
  SELECT s.hi INTO v_a FROM mq_stat s WHERE s.topic_id = p_topic AND s.tag = '*' AND s.hi >= p_lo AND s.hi <= v_hi ORDER BY s.hi LIMIT 1;
  IF v_a IS NULL THEN
    SELECT count(*) INTO v_n FROM mq_message m WHERE m.topic_id = p_topic AND m.id > p_lo AND m.id <= v_hi
       AND (p_tags IS NULL OR mq_has_tag(m.tag, p_tags)) AND (p_also IS NULL OR mq_has_tag(m.tag, p_also));
    RETURN v_n;
  END IF;
  SELECT s.hi INTO v_b FROM mq_stat s WHERE s.topic_id = p_topic AND s.tag = '*' AND s.hi <= v_hi ORDER BY s.hi DESC LIMIT 1;
  SELECT count(*) INTO v_n FROM mq_message m WHERE m.topic_id = p_topic AND m.id > p_lo AND m.id <= v_a
     AND (p_tags IS NULL OR mq_has_tag(m.tag, p_tags)) AND (p_also IS NULL OR mq_has_tag(m.tag, p_also));
  SELECT v_n + count(*) INTO v_n FROM mq_message m WHERE m.topic_id = p_topic AND m.id > v_b AND m.id <= v_hi
     AND (p_tags IS NULL OR mq_has_tag(m.tag, p_tags)) AND (p_also IS NULL OR mq_has_tag(m.tag, p_also));
  IF v_b > v_a THEN   -- a tag's newest row at or below a cut holds its count at that cut
    IF p_also IS NULL AND left(p_tags[1], 1) <> '~' THEN
      v_tags := p_tags || ARRAY(SELECT l.label FROM mq_label l WHERE l.topic_id = p_topic AND l.several AND mq_has_tag(l.label, p_tags));
    ELSIF p_tags IS NOT NULL OR p_also IS NOT NULL THEN
      v_tags := ARRAY(SELECT l.label FROM mq_label l WHERE l.topic_id = p_topic
                         AND (p_tags IS NULL OR mq_has_tag(l.label, p_tags)) AND (p_also IS NULL OR mq_has_tag(l.label, p_also)));
    END IF;
    SELECT coalesce(sum(coalesce(b.cum, 0) - coalesce(a.cum, 0)), 0) INTO v_m FROM unnest(v_tags) t(tag)
      LEFT JOIN LATERAL (SELECT s.cum FROM mq_stat s WHERE s.topic_id = p_topic AND s.tag = t.tag AND s.hi <= v_b ORDER BY s.hi DESC LIMIT 1) b ON true
      LEFT JOIN LATERAL (SELECT s.cum FROM mq_stat s WHERE s.topic_id = p_topic AND s.tag = t.tag AND s.hi <= v_a ORDER BY s.hi DESC LIMIT 1) a ON true;
  END IF;
  RETURN v_n + v_m;
END $$;

-- Counters are cut at the horizon when a topic has grown by p_step messages: at most p_step messages are ever counted one by one.
CREATE OR REPLACE FUNCTION mq_cut(p_topics int DEFAULT 200, p_step int DEFAULT 1000) RETURNS int LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE v_closed bigint; t record; v_hi bigint; k int := 0;
BEGIN
  IF NOT pg_try_advisory_xact_lock(7310002) THEN RETURN 0; END IF;
  SELECT closed_id INTO v_closed FROM mq_horizon;
  FOR t IN SELECT topic_id, cut_id FROM mq_topic WHERE NOT retired ORDER BY checked_at LIMIT p_topics LOOP
    SELECT m.id INTO v_hi FROM mq_message m WHERE m.topic_id = t.topic_id AND m.id > t.cut_id AND m.id <= v_closed ORDER BY m.id OFFSET p_step - 1 LIMIT 1;
    IF v_hi IS NOT NULL THEN
      INSERT INTO mq_stat (topic_id, tag, hi, cum)
        SELECT t.topic_id, x.tag, v_hi, x.n + coalesce((SELECT s.cum FROM mq_stat s WHERE s.topic_id = t.topic_id AND s.tag = x.tag ORDER BY s.hi DESC LIMIT 1), 0)
          FROM (SELECT coalesce(m.tag, '*') AS tag, count(*) AS n FROM mq_message m
                 WHERE m.topic_id = t.topic_id AND m.id > t.cut_id AND m.id <= v_hi GROUP BY GROUPING SETS ((m.tag), ())) x;
      k := k + 1;
    END IF;
    UPDATE mq_topic SET cut_id = coalesce(v_hi, cut_id), checked_at = CASE WHEN v_hi IS NULL THEN clock_timestamp() ELSE checked_at END WHERE topic_id = t.topic_id;
  END LOOP;
  RETURN k;   -- call again until 0
END $$;

-- What would be lost with a topic: the largest numbers of any group, its delayed messages, and half messages that nobody has decided on.
CREATE OR REPLACE FUNCTION mq_backlog(p_topic bigint, OUT waiting bigint, OUT processing bigint, OUT later bigint, OUT delayed bigint, OUT half bigint) STABLE LANGUAGE sql AS $$
  SELECT coalesce(max(mq_count(c.topic_id, c.pos, 9223372036854775807, c.tags) + c.held), 0), coalesce(max(c.processing), 0), coalesce(max(c.later), 0),
         (SELECT count(*) FROM mq_delayed d WHERE d.topic_id = p_topic), (SELECT count(*) FROM mq_half h WHERE h.topic_id = p_topic AND h.state IN ('O', 'U'))
    FROM mq_cursor c WHERE c.topic_id = p_topic AND c.active $$;

-- Exact counts of many groups in one statement. Skipped while unsubscribed is added when the group comes back; until then it is
-- counted from the open stretch, so that nothing is counted twice.
CREATE OR REPLACE FUNCTION mq_counts(p_groups bigint[]) RETURNS TABLE (group_id bigint, topic_id bigint, waiting bigint, processing bigint, succeeded bigint,
    later bigint, dead bigint, failed bigint, skipped bigint) STABLE LANGUAGE sql AS $$
  SELECT c.group_id, c.topic_id, coalesce(l.messages, 0), c.processing, c.succeeded, c.later, c.dead, c.failed,
         c.skipped + CASE WHEN c.active THEN 0 ELSE coalesce((SELECT sum(mq_count(c.topic_id, s.lo, s.hi, s.tags)) FROM mq_span s
           WHERE s.group_id = c.group_id AND s.topic_id = c.topic_id AND s.kind = 'K' AND s.lo >= c.pos), 0) END
    FROM mq_cursor c LEFT JOIN mq_lag(p_groups) l ON l.group_id = c.group_id AND l.topic_id = c.topic_id
   WHERE c.group_id = ANY (p_groups) $$;

-- How far behind: messages and when the oldest waiting one was sent; only subscriptions for which something waits. Nearly all of them
-- are at the end of their topic: one probe each tells so. Without enable_sort=off a long backlog is sorted to find its first message. The
-- groups are joined: thousands of them as an array to be searched for each cursor cost as much as the probes.
CREATE OR REPLACE FUNCTION mq_lag(p_groups bigint[]) RETURNS TABLE (group_id bigint, topic_id bigint, messages bigint, oldest timestamptz) STABLE LANGUAGE plpgsql
SET enable_sort = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE v_latest bigint := (SELECT last_value FROM mq_id_seq);
BEGIN
  RETURN QUERY
    SELECT c.group_id, c.topic_id, CASE WHEN f.id IS NULL THEN 0 ELSE mq_count(c.topic_id, f.id - 1, v_latest, c.tags) END + c.held, least(f.sent_at, b.sent_at)
      FROM (SELECT DISTINCT x.id FROM unnest(p_groups) x(id)) g JOIN mq_cursor c ON c.group_id = g.id
      LEFT JOIN LATERAL (SELECT m.id, m.sent_at FROM mq_message m WHERE m.topic_id = c.topic_id AND m.id > c.pos AND m.id <= v_latest
                            AND (c.tags IS NULL OR mq_has_tag(m.tag, c.tags)) ORDER BY m.id LIMIT 1) f ON true
      LEFT JOIN LATERAL (SELECT m.sent_at FROM (SELECT min(e.msg_id) AS id FROM mq_exception e WHERE e.group_id = c.group_id AND e.topic_id = c.topic_id
                            AND e.okey IS NOT NULL AND e.status = 'B') x JOIN mq_message m ON m.topic_id = c.topic_id AND m.id = x.id WHERE c.held > 0) b ON true
     WHERE c.active AND (f.id IS NOT NULL OR c.held > 0);
END $$;

-- What waits for the group of the topic that is furthest behind. Of groups with the same filter the one with the lowest position has most,
-- so each filter is counted once, however many groups there are. An instance of a broadcast group that has not been seen for a while
-- holds up no producer: it may never come back.
CREATE OR REPLACE FUNCTION mq_topic_backlog(p_topic bigint) RETURNS bigint STABLE LANGUAGE sql AS $$
  SELECT coalesce(max(mq_count(p_topic, c.pos, 9223372036854775807, c.tags) + c.held), 0)
    FROM (SELECT min(q.pos) AS pos, max(q.held) AS held, q.tags FROM mq_cursor q LEFT JOIN mq_instance i ON i.instance_id = q.group_id
           WHERE q.topic_id = p_topic AND q.active AND (i.instance_id IS NULL OR i.seen_at > clock_timestamp() - interval '10 minutes')
           GROUP BY q.tags) c $$;

CREATE OR REPLACE FUNCTION mq_stat_labels() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO mq_label SELECT DISTINCT s.topic_id, strpos(s.tag, '|') > 0, s.tag FROM made s WHERE s.tag <> '*' ON CONFLICT DO NOTHING;
  RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER labels AFTER INSERT ON mq_stat REFERENCING NEW TABLE AS made FOR EACH STATEMENT EXECUTE FUNCTION mq_stat_labels();
