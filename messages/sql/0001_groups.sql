-- Groups and subscriptions. Called by clusters/drivers/builtin.py inside the transaction of whoever changes the group's metadata.

CREATE FUNCTION mq_group_put(p_group bigint, p_max_attempts int, p_backoff_ms bigint[], p_suspended boolean) RETURNS void LANGUAGE sql AS $$
  INSERT INTO mq_group (group_id, max_attempts, backoff_ms, suspended) VALUES (p_group, p_max_attempts, p_backoff_ms, p_suspended)
  ON CONFLICT (group_id) DO UPDATE SET max_attempts = EXCLUDED.max_attempts, backoff_ms = EXCLUDED.backoff_ms, suspended = EXCLUDED.suspended $$;

CREATE FUNCTION mq_lock_group(p_group bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM mq_group WHERE group_id = p_group FOR NO KEY UPDATE;
  IF NOT FOUND THEN RAISE EXCEPTION 'group % is not in the message store', p_group USING ERRCODE = 'no_data_found'; END IF;
END $$;

-- Messages of a topic in (lo, hi] that match the tags; exact, from the counters and a short tail at both ends.
CREATE FUNCTION mq_count(p_topic bigint, p_lo bigint, p_hi bigint, p_tags text[]) RETURNS bigint STABLE LANGUAGE plpgsql AS $$
DECLARE v_a bigint; v_b bigint; v_n bigint; v_m bigint := 0; v_tags text[] := coalesce(p_tags, '{*}');
BEGIN
  IF p_lo >= p_hi THEN RETURN 0; END IF;
  SELECT s.hi INTO v_a FROM mq_stat s WHERE s.topic_id = p_topic AND s.tag = '*' AND s.hi >= p_lo AND s.hi <= p_hi ORDER BY s.hi LIMIT 1;
  IF v_a IS NULL THEN
    SELECT count(*) INTO v_n FROM mq_message m WHERE m.topic_id = p_topic AND m.id > p_lo AND m.id <= p_hi AND (p_tags IS NULL OR m.tag = ANY (p_tags));
    RETURN v_n;
  END IF;
  SELECT s.hi INTO v_b FROM mq_stat s WHERE s.topic_id = p_topic AND s.tag = '*' AND s.hi <= p_hi ORDER BY s.hi DESC LIMIT 1;
  SELECT count(*) INTO v_n FROM mq_message m WHERE m.topic_id = p_topic AND m.id > p_lo AND m.id <= v_a AND (p_tags IS NULL OR m.tag = ANY (p_tags));
  SELECT v_n + count(*) INTO v_n FROM mq_message m WHERE m.topic_id = p_topic AND m.id > v_b AND m.id <= p_hi AND (p_tags IS NULL OR m.tag = ANY (p_tags));
  IF v_b > v_a THEN   -- a tag's newest row at or below a cut holds its count at that cut
    SELECT coalesce(sum(coalesce(b.cum, 0) - coalesce(a.cum, 0)), 0) INTO v_m FROM unnest(v_tags) t(tag)
      LEFT JOIN LATERAL (SELECT s.cum FROM mq_stat s WHERE s.topic_id = p_topic AND s.tag = t.tag AND s.hi <= v_b ORDER BY s.hi DESC LIMIT 1) b ON true
      LEFT JOIN LATERAL (SELECT s.cum FROM mq_stat s WHERE s.topic_id = p_topic AND s.tag = t.tag AND s.hi <= v_a ORDER BY s.hi DESC LIMIT 1) a ON true;
  END IF;
  RETURN v_n + v_m;
END $$;
ALTER FUNCTION mq_count SET plan_cache_mode = force_generic_plan;

-- Counters are cut at the horizon when a topic has grown by p_step messages: at most p_step messages are ever counted one by one.
CREATE FUNCTION mq_cut(p_topics int DEFAULT 200, p_step int DEFAULT 1000) RETURNS int LANGUAGE plpgsql AS $$
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
ALTER FUNCTION mq_cut SET plan_cache_mode = force_generic_plan;

-- Subscribe, or change the filter of a running subscription (what has been handed out keeps the filter it was handed out under).
CREATE FUNCTION mq_subscribe(p_group bigint, p_topic bigint, p_tags text[], p_latest boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE c mq_cursor; s mq_span; v_latest bigint; v_skip bigint;
BEGIN
  PERFORM mq_lock_group(p_group);
  INSERT INTO mq_topic (topic_id) VALUES (p_topic) ON CONFLICT DO NOTHING;
  UPDATE mq_topic SET retired = false WHERE topic_id = p_topic AND retired;
  SELECT last_value INTO v_latest FROM mq_id_seq;   -- ids drawn from now on are above it, whether closed or not
  SELECT * INTO c FROM mq_cursor WHERE group_id = p_group AND topic_id = p_topic;
  IF c.group_id IS NULL THEN
    INSERT INTO mq_cursor (group_id, topic_id, pos, tags) VALUES (p_group, p_topic, CASE WHEN p_latest THEN v_latest ELSE 0 END, p_tags);
    IF p_latest THEN INSERT INTO mq_span (group_id, topic_id, lo, hi, kind) VALUES (p_group, p_topic, 0, v_latest, 'N'); END IF;
    INSERT INTO mq_span (group_id, topic_id, lo, kind, filter_no, tags) VALUES (p_group, p_topic, CASE WHEN p_latest THEN v_latest ELSE 0 END, 'D', 1, p_tags);
    RETURN;
  END IF;
  IF c.active THEN
    IF c.tags IS NOT DISTINCT FROM p_tags THEN RETURN; END IF;
    UPDATE mq_span SET hi = c.pos WHERE group_id = p_group AND topic_id = p_topic AND hi IS NULL;
  ELSIF p_latest THEN   -- away for a while: (pos, unsubscribed at] stays skipped, what came meanwhile was not subscribed
    UPDATE mq_span SET hi = v_latest WHERE group_id = p_group AND topic_id = p_topic AND hi IS NULL;
    SELECT coalesce(sum(mq_count(p_topic, x.lo, x.hi, x.tags)), 0) INTO v_skip FROM mq_span x
     WHERE x.group_id = p_group AND x.topic_id = p_topic AND x.kind = 'K' AND x.lo >= c.pos;
    c.pos := v_latest;
  ELSE                  -- goes on where it stood
    DELETE FROM mq_span WHERE group_id = p_group AND topic_id = p_topic AND lo >= c.pos;
  END IF;
  DELETE FROM mq_span WHERE group_id = p_group AND topic_id = p_topic AND hi <= lo;   -- nothing happened in it
  UPDATE mq_cursor SET active = true, pos = c.pos, tags = p_tags, filter_no = filter_no + 1, skipped = skipped + coalesce(v_skip, 0)
   WHERE group_id = p_group AND topic_id = p_topic;
  INSERT INTO mq_span (group_id, topic_id, lo, kind, filter_no, tags) VALUES (p_group, p_topic, c.pos, 'D', c.filter_no + 1, p_tags);
END $$;

-- Unsubscribe: what waits is skipped, what was to be retried is given up (F); what is in a worker's hands may still be settled.
CREATE FUNCTION mq_unsubscribe(p_group bigint, p_topic bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE c mq_cursor; v_latest bigint; k bigint;
BEGIN
  PERFORM mq_lock_group(p_group);
  SELECT * INTO c FROM mq_cursor WHERE group_id = p_group AND topic_id = p_topic AND active;
  IF NOT FOUND THEN RETURN; END IF;
  SELECT last_value INTO v_latest FROM mq_id_seq;
  UPDATE mq_span SET hi = c.pos WHERE group_id = p_group AND topic_id = p_topic AND hi IS NULL;
  DELETE FROM mq_span WHERE group_id = p_group AND topic_id = p_topic AND hi <= lo;
  IF v_latest > c.pos THEN
    INSERT INTO mq_span (group_id, topic_id, lo, hi, kind, filter_no, tags) VALUES (p_group, p_topic, c.pos, v_latest, 'K', c.filter_no, c.tags);
  END IF;
  INSERT INTO mq_span (group_id, topic_id, lo, kind) VALUES (p_group, p_topic, greatest(v_latest, c.pos), 'N');
  UPDATE mq_exception SET status = 'F', due_at = NULL, last_at = clock_timestamp(), error = coalesce(error || '; ', '') || 'unsubscribed'
   WHERE group_id = p_group AND topic_id = p_topic AND status = 'L';
  GET DIAGNOSTICS k = ROW_COUNT;
  UPDATE mq_cursor SET active = false, later = later - k, failed = failed + k WHERE group_id = p_group AND topic_id = p_topic;
END $$;

CREATE FUNCTION mq_group_retire(p_group bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE t bigint;
BEGIN
  PERFORM mq_lock_group(p_group);
  FOR t IN SELECT topic_id FROM mq_cursor WHERE group_id = p_group AND active ORDER BY topic_id LOOP PERFORM mq_unsubscribe(p_group, t); END LOOP;
  UPDATE mq_group SET retired = true WHERE group_id = p_group;
END $$;

CREATE FUNCTION mq_topic_retire(p_topic bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE g bigint;
BEGIN
  FOR g IN SELECT group_id FROM mq_cursor WHERE topic_id = p_topic AND active ORDER BY group_id LOOP PERFORM mq_unsubscribe(g, p_topic); END LOOP;
  UPDATE mq_topic SET retired = true WHERE topic_id = p_topic;
END $$;

-- What would be lost with a topic: the largest numbers of any group, and the delayed messages.
CREATE FUNCTION mq_backlog(p_topic bigint, OUT waiting bigint, OUT processing bigint, OUT later bigint, OUT delayed bigint) STABLE LANGUAGE sql AS $$
  SELECT coalesce(max(mq_count(c.topic_id, c.pos, 9223372036854775807, c.tags)), 0), coalesce(max(c.processing), 0), coalesce(max(c.later), 0),
         (SELECT count(*) FROM mq_delayed d WHERE d.topic_id = p_topic)
    FROM mq_cursor c WHERE c.topic_id = p_topic AND c.active $$;
