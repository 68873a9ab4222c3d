-- Rewind and skip: the position of a group on one topic is moved by a person, and moved back by undo.
--
-- What a rewind makes waiting again has succeeded before, and the history says so. So a position has an era, one more with each move: an
-- ack counts as long as its era is not older than that of the span that the message lies in. Nothing of the history is deleted, and a
-- move costs the same whether ten messages are repeated or ten million.

-- What a group has made of a topic's messages in (p_lo, p_hi], all of them at or below its position: by status, from the counters of the
-- topic, the spans and the exceptions. A message that was delivered and is neither an exception nor in a lease has succeeded.
CREATE OR REPLACE FUNCTION mq_tally(p_group bigint, p_topic bigint, p_lo bigint, p_hi bigint, OUT processing bigint, OUT succeeded bigint, OUT later bigint,
                         OUT dead bigint, OUT failed bigint, OUT skipped bigint, OUT held bigint) STABLE LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE l mq_lease; v_leased bigint := 0; v_n bigint;
BEGIN
  SELECT coalesce(sum(x.n) FILTER (WHERE x.kind = 'D'), 0), coalesce(sum(x.n) FILTER (WHERE x.kind = 'K'), 0) INTO succeeded, skipped FROM (
    SELECT s.kind, mq_count(p_topic, greatest(s.lo, p_lo), least(coalesce(s.hi, p_hi), p_hi), s.tags) AS n FROM mq_span s
     WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.kind <> 'N' AND s.lo < p_hi AND (s.hi IS NULL OR s.hi > p_lo)) x;
  SELECT count(*) FILTER (WHERE e.status = 'P'), count(*) FILTER (WHERE e.status = 'L'), count(*) FILTER (WHERE e.status = 'D'),
         count(*) FILTER (WHERE e.status = 'F'), count(*) FILTER (WHERE e.status = 'B'), succeeded - count(*) INTO processing, later, dead, failed, held, succeeded
    FROM mq_exception e WHERE e.group_id = p_group AND e.topic_id = p_topic AND e.msg_id > p_lo AND e.msg_id <= p_hi;
  FOR l IN SELECT * FROM mq_lease q WHERE q.group_id = p_group AND q.topic_id = p_topic AND q.hi > p_lo LOOP
    v_n := l.left_n;
    IF l.lo < p_lo THEN   -- only its end
      SELECT count(*) INTO v_n FROM (SELECT m.id, row_number() OVER (ORDER BY m.id)::int - 1 AS pos FROM mq_message m
         WHERE m.topic_id = p_topic AND m.id > l.lo AND m.id <= l.hi AND (l.tags IS NULL OR mq_has_tag(m.tag, l.tags))) s
       WHERE s.id > p_lo AND (l.acked IS NULL OR get_bit(l.acked, 2 * s.pos) = 0);
    END IF;
    v_leased := v_leased + v_n;
  END LOOP;
  processing := processing + v_leased;
  succeeded := succeeded - v_leased;
END $$;

-- The position before the first message that was sent at or after a time; NULL when there is none. Ids only follow the clock as long as
-- somebody ticks, so the times of sending decide: the search ends a few seconds too early, and looks at each message from there on.
CREATE OR REPLACE FUNCTION mq_position_at(p_topic bigint, p_time timestamptz) RETURNS bigint STABLE LANGUAGE plpgsql SET enable_sort = off AS $$
DECLARE v_lo bigint := mq_oldest() - 1; v_hi bigint := (SELECT closed_id FROM mq_horizon); v_closed bigint := v_hi; v_mid bigint; m record;
BEGIN
  WHILE v_hi - v_lo > 64 LOOP
    v_mid := (v_lo + v_hi) / 2;
    SELECT x.id, x.sent_at INTO m FROM mq_message x WHERE x.topic_id = p_topic AND x.id > v_mid AND x.id <= v_closed ORDER BY x.id LIMIT 1;
    IF m.id IS NULL OR m.sent_at >= p_time - interval '5 s' THEN v_hi := v_mid; ELSE v_lo := m.id; END IF;
  END LOOP;
  SELECT x.id INTO m FROM mq_message x WHERE x.topic_id = p_topic AND x.id > v_lo AND x.id <= v_closed AND x.sent_at >= p_time ORDER BY x.id LIMIT 1;
  RETURN m.id - 1;
END $$;

-- The oldest id that is still kept.
CREATE OR REPLACE FUNCTION mq_oldest() RETURNS bigint STABLE LANGUAGE sql AS $$ SELECT min(p.lo::bigint) FROM mq_partitions('mq_message') p $$;

-- What moving a position would do. The preview shows it, and mq_reset does what it says or nothing: there is no second computation.
CREATE OR REPLACE FUNCTION mq_reset_plan(p_group bigint, p_topic bigint, p_target bigint) RETURNS mq_plan STABLE LANGUAGE plpgsql AS $$
DECLARE g mq_group; c mq_cursor; t record; p mq_plan; v_again bigint; v_held bigint := 0;
BEGIN
  SELECT * INTO g FROM mq_group q WHERE q.group_id = p_group;
  SELECT * INTO c FROM mq_cursor q WHERE q.group_id = p_group AND q.topic_id = p_topic AND q.active;
  p.done := false;
  p.problem := CASE WHEN g.group_id IS NULL THEN 'unknown' WHEN g.retired THEN 'retired' WHEN c.group_id IS NULL THEN 'not_subscribed'
                    WHEN p_target < mq_first_position(p_topic) AND p_target < c.pos THEN 'beyond_retention'
                    WHEN p_target > c.pos AND p_target > (SELECT closed_id FROM mq_horizon) THEN 'ahead' END;
  IF p.problem IS NOT NULL THEN RETURN p; END IF;
  p.pos := c.pos; p.target := p_target; p.repeated := 0; p.first_time := 0; p.passed := 0;
  SELECT * INTO t FROM mq_tally(p_group, p_topic, least(p_target, c.pos), c.pos);
  p.processing := t.processing; p.succeeded := t.succeeded; p.later := t.later; p.dead := t.dead; p.failed := t.failed; p.skipped := t.skipped; p.held := t.held;
  IF p_target > c.pos THEN
    p.passed := mq_count(p_topic, c.pos, p_target, c.tags);
  ELSIF p_target < c.pos THEN   -- what is handed out from there on goes by the filter of today
    v_again := mq_count(p_topic, p_target, c.pos, c.tags);
    SELECT coalesce(sum(mq_count(p_topic, greatest(s.lo, p_target), least(coalesce(s.hi, c.pos), c.pos), s.tags, c.tags)), 0)
      INTO p.repeated FROM mq_span s
     WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.kind = 'D' AND s.lo < c.pos AND (s.hi IS NULL OR s.hi > p_target);
    IF p.held > 0 THEN   -- they were passed, not handed out
      SELECT count(*) INTO v_held FROM mq_exception e JOIN mq_message m ON m.topic_id = p_topic AND m.id = e.msg_id
       WHERE e.group_id = p_group AND e.topic_id = p_topic AND e.okey IS NOT NULL AND e.status = 'B' AND e.attempts = 0
         AND e.msg_id > p_target AND e.msg_id <= c.pos AND (c.tags IS NULL OR mq_has_tag(m.tag, c.tags));
      p.repeated := p.repeated - v_held;
    END IF;
    p.first_time := v_again - p.repeated;
  END IF;
  p.fingerprint := md5(concat_ws('|', c.pos, p_target, c.era, c.filter_no, c.processing, c.succeeded, c.later, c.dead, c.failed, c.skipped,
                                 p.repeated, p.first_time, p.passed, p.processing, p.succeeded, p.later, p.dead, p.failed, p.skipped, c.held, p.held));
  RETURN p;
END $$;

-- Move the position as the plan with this fingerprint says; done = false and nothing is changed when the plan is another one now.
-- A rewind: a lease that reaches beyond the target ends, what is unsettled of it becomes an exception in the same worker's hands; then all
-- exceptions and spans beyond the target go into mq_undo. A skip leaves retries and what is in hand alone.
CREATE OR REPLACE FUNCTION mq_reset(p_group bigint, p_topic bigint, p_target bigint, p_fingerprint text) RETURNS mq_plan LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE c mq_cursor; l mq_lease; v_span mq_span; h mq_history; p mq_plan; v_now timestamptz; v_gone int; v_lost int; v_n int;
BEGIN
  PERFORM FROM mq_group q WHERE q.group_id = p_group FOR NO KEY UPDATE;
  PERFORM mq_retention_hold(p_topic);
  p := mq_reset_plan(p_group, p_topic, p_target);
  IF p.problem IS NOT NULL OR p.fingerprint IS DISTINCT FROM p_fingerprint OR p.target = p.pos THEN RETURN p; END IF;
  v_now := clock_timestamp();
  SELECT * INTO c FROM mq_cursor q WHERE q.group_id = p_group AND q.topic_id = p_topic;
  DELETE FROM mq_undo q WHERE q.group_id = p_group AND q.topic_id = p_topic;
  DELETE FROM mq_undo_exception q WHERE q.group_id = p_group AND q.topic_id = p_topic;
  INSERT INTO mq_undo (group_id, topic_id, from_pos, to_pos, era, filter_no, spans)
    SELECT p_group, p_topic, c.pos, p_target, c.era + 1, c.filter_no, coalesce(jsonb_agg(to_jsonb(s)), '[]') FROM mq_span s
     WHERE s.group_id = p_group AND s.topic_id = p_topic AND p_target < c.pos AND (s.hi IS NULL OR s.hi > p_target);
  IF p_target > c.pos THEN
    UPDATE mq_cursor q SET pos = p_target, era = q.era + 1, skipped = q.skipped + p.passed WHERE q.group_id = p_group AND q.topic_id = p_topic;
    UPDATE mq_span s SET hi = c.pos WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.hi IS NULL;
    DELETE FROM mq_span s WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.hi <= s.lo;
    INSERT INTO mq_span (group_id, topic_id, lo, hi, kind, filter_no, tags) VALUES (p_group, p_topic, c.pos, p_target, 'K', c.filter_no, c.tags);
  ELSE
    FOR l IN SELECT * FROM mq_lease q WHERE q.group_id = p_group AND q.topic_id = p_topic AND q.hi > p_target ORDER BY q.token LOOP
      SELECT greatest(l.n - count(*), 0) INTO v_gone FROM mq_message m   -- as mq_expire: whatever of a lease is gone is its beginning
       WHERE m.topic_id = l.topic_id AND m.id > l.lo AND m.id <= l.hi AND (l.tags IS NULL OR mq_has_tag(m.tag, l.tags));
      INSERT INTO mq_exception (group_id, msg_id, topic_id, token, lease_until, pulled_at, first_at, last_at, attempts, lane, status, single, consumer, okey)
        SELECT p_group, s.id, l.topic_id, l.token, l.lease_until, l.pulled_at, v_now, v_now, 0, l.lane, 'P', l.alone, l.consumer, l.okeys[s.pos + 1]
          FROM (SELECT m.id, row_number() OVER (ORDER BY m.id)::int - 1 + v_gone AS pos FROM mq_message m
                 WHERE m.topic_id = l.topic_id AND m.id > l.lo AND m.id <= l.hi AND (l.tags IS NULL OR mq_has_tag(m.tag, l.tags))) s
         WHERE l.acked IS NULL OR get_bit(l.acked, 2 * s.pos) = 0;
      GET DIAGNOSTICS v_lost = ROW_COUNT;
      v_lost := l.left_n - v_lost;
      DELETE FROM mq_lease q WHERE q.group_id = p_group AND q.token = l.token AND q.topic_id = l.topic_id AND q.lane = l.lane;
      INSERT INTO mq_history (group_id, topic_id, lo, hi, token, pulled_at, settled_at, n, attempts, retried, expired, era, acked, consumer)
        VALUES (p_group, l.topic_id, l.lo, l.hi, l.token, l.pulled_at, v_now, l.n, 1, false, true, c.era, coalesce(l.acked, repeat('0', 2 * l.n)::varbit), l.consumer);
      IF v_lost > 0 THEN
        UPDATE mq_cursor q SET processing = q.processing - v_lost, failed = q.failed + v_lost WHERE q.group_id = p_group AND q.topic_id = p_topic;
      END IF;
    END LOOP;
    -- The finished lease across the target is cut in two: the status of a message is looked up in the first one that ends at or behind it,
    -- and those that are to come end between. A lease lies within one span.
    SELECT * INTO v_span FROM mq_span q WHERE q.group_id = p_group AND q.topic_id = p_topic AND q.lo < p_target AND (q.hi IS NULL OR q.hi > p_target);
    SELECT * INTO h FROM mq_history q WHERE q.group_id = p_group AND q.topic_id = p_topic AND NOT q.retried AND q.hi > p_target AND q.era >= v_span.era
     ORDER BY q.hi LIMIT 1;
    v_n := h.n - mq_count(p_topic, p_target, h.hi, v_span.tags);
    IF h.lo < p_target AND v_n > 0 THEN
      DELETE FROM mq_history q WHERE q.group_id = p_group AND q.topic_id = p_topic AND NOT q.retried AND q.hi = h.hi AND q.token = h.token;
      INSERT INTO mq_history (group_id, topic_id, lo, hi, token, pulled_at, settled_at, n, attempts, retried, expired, era, acked, consumer) VALUES
        (p_group, p_topic, h.lo, p_target, h.token, h.pulled_at, h.settled_at, v_n, h.attempts, false, h.expired, h.era,
         substring(h.acked FROM 1 FOR 2 * v_n), h.consumer),
        (p_group, p_topic, p_target, h.hi, h.token, h.pulled_at, h.settled_at, h.n - v_n, h.attempts, false, h.expired, h.era,
         substring(h.acked FROM 2 * v_n + 1), h.consumer);
    END IF;
    WITH away AS (DELETE FROM mq_exception e WHERE e.group_id = p_group AND e.topic_id = p_topic AND e.msg_id > p_target RETURNING e.*)
    INSERT INTO mq_undo_exception (group_id, topic_id, msg_id, kept) SELECT p_group, p_topic, a.msg_id, to_jsonb(a) FROM away a;
    DELETE FROM mq_span s WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.lo >= p_target;
    UPDATE mq_span s SET hi = p_target WHERE s.group_id = p_group AND s.topic_id = p_topic AND (s.hi IS NULL OR s.hi > p_target);
    UPDATE mq_cursor q SET pos = p_target, era = q.era + 1, processing = q.processing - p.processing, succeeded = q.succeeded - p.succeeded,
           later = q.later - p.later, dead = q.dead - p.dead, failed = q.failed - p.failed, skipped = q.skipped - p.skipped, held = q.held - p.held
     WHERE q.group_id = p_group AND q.topic_id = p_topic;
  END IF;
  INSERT INTO mq_span (group_id, topic_id, lo, kind, filter_no, tags) VALUES (p_group, p_topic, p_target, 'D', c.filter_no, c.tags);
  IF c.held > 0 AND c.ordering > 0 THEN PERFORM mq_release_all(p_group, p_topic); END IF;
  p.done := true;
  p.era := c.era + 1;
  RETURN p;
END $$;

-- Take the newest move back. Of a rewind: what has not been handed out again is as it was before, exceptions in workers' hands included;
-- what has been stays as the repetition left it. Of a skip: if nothing was handed out since, the position goes back; else the skipped
-- messages, p_most of them at the most, become retries that are due now, since a position has no holes. What has gone meanwhile stays skipped.
CREATE OR REPLACE FUNCTION mq_reset_undo(p_group bigint, p_topic bigint, p_era int, p_most bigint, OUT problem text, OUT restored bigint, OUT pos bigint)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE c mq_cursor; u mq_undo; t record; v_now timestamptz; v_held bigint; v_from bigint;
BEGIN
  PERFORM FROM mq_group q WHERE q.group_id = p_group FOR NO KEY UPDATE;
  v_now := clock_timestamp();
  SELECT * INTO c FROM mq_cursor q WHERE q.group_id = p_group AND q.topic_id = p_topic AND q.active;
  SELECT * INTO u FROM mq_undo q WHERE q.group_id = p_group AND q.topic_id = p_topic AND q.era = p_era;
  IF u.era IS NULL OR c.era IS DISTINCT FROM u.era OR c.filter_no <> u.filter_no THEN
    problem := 'changed_since';
    RETURN;
  END IF;
  pos := u.from_pos;
  IF u.to_pos < u.from_pos THEN
    IF c.pos >= u.from_pos THEN problem := 'nothing_left'; RETURN; END IF;
    restored := mq_count(p_topic, c.pos, u.from_pos, c.tags);
    UPDATE mq_cursor q SET pos = u.from_pos, era = q.era + 1 WHERE q.group_id = p_group AND q.topic_id = p_topic;
    UPDATE mq_span s SET hi = c.pos WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.hi IS NULL;
    DELETE FROM mq_span s WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.hi <= s.lo;
    INSERT INTO mq_span (group_id, topic_id, lo, hi, kind, filter_no, era, tags)
      SELECT p_group, p_topic, greatest(s.lo, c.pos), least(coalesce(s.hi, u.from_pos), u.from_pos), s.kind, s.filter_no, s.era, s.tags
        FROM jsonb_populate_recordset(NULL::mq_span, u.spans) s
       WHERE s.lo < u.from_pos AND (s.hi IS NULL OR s.hi > c.pos);
    INSERT INTO mq_span (group_id, topic_id, lo, kind, filter_no, tags) VALUES (p_group, p_topic, u.from_pos, 'D', c.filter_no, c.tags);
    UPDATE mq_cursor q SET due_from = 'epoch' WHERE q.group_id = p_group AND q.due_from > 'epoch';   -- retries come back that were due long ago
    INSERT INTO mq_exception SELECT e.* FROM mq_undo_exception k CROSS JOIN LATERAL jsonb_populate_record(NULL::mq_exception, k.kept) e
      WHERE k.group_id = p_group AND k.topic_id = p_topic AND k.msg_id > c.pos;
    SELECT * INTO t FROM mq_tally(p_group, p_topic, c.pos, u.from_pos);
    UPDATE mq_cursor q SET processing = q.processing + t.processing, succeeded = q.succeeded + t.succeeded, later = q.later + t.later,
           dead = q.dead + t.dead, failed = q.failed + t.failed, skipped = q.skipped + t.skipped, held = q.held + t.held WHERE q.group_id = p_group AND q.topic_id = p_topic;
    IF c.ordering > 0 THEN PERFORM mq_release_all(p_group, p_topic); END IF;
    IF EXISTS (SELECT FROM mq_group g WHERE g.group_id = p_group AND g.dealt > 0 AND NOT g.sticky) THEN PERFORM mq_unpark_all(p_group); END IF;
  ELSE
    v_from := greatest(u.from_pos, mq_oldest() - 1, mq_retention_hold(p_topic));
    IF v_from >= u.to_pos THEN problem := 'nothing_left'; RETURN; END IF;
    restored := mq_count(p_topic, v_from, u.to_pos, c.tags);
    IF c.pos = u.to_pos THEN
      pos := v_from;
      UPDATE mq_cursor q SET pos = v_from, era = q.era + 1, skipped = q.skipped - restored WHERE q.group_id = p_group AND q.topic_id = p_topic;
      DELETE FROM mq_span s WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.lo > u.from_pos;
      DELETE FROM mq_span s WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.lo = u.from_pos AND v_from = u.from_pos;
      UPDATE mq_span s SET hi = v_from WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.lo = u.from_pos;
      INSERT INTO mq_span (group_id, topic_id, lo, kind, filter_no, tags) VALUES (p_group, p_topic, v_from, 'D', c.filter_no, c.tags);
    ELSE
      IF restored > p_most THEN problem := 'too_many'; RETURN; END IF;
      pos := c.pos;
      INSERT INTO mq_exception (group_id, msg_id, topic_id, first_at, last_at, attempts, status, due_at, error, okey)
        SELECT p_group, m.id, p_topic, v_now, v_now, 0, CASE WHEN k.okey IS NULL THEN 'L' ELSE 'B' END, CASE WHEN k.okey IS NULL THEN v_now END, 'skipped, taken back', k.okey
          FROM mq_message m CROSS JOIN LATERAL (SELECT mq_okey(c.ordering, p_topic, m.skey) AS okey) k
         WHERE m.topic_id = p_topic AND m.id > v_from AND m.id <= u.to_pos AND (c.tags IS NULL OR mq_has_tag(m.tag, c.tags));
      SELECT count(*) FILTER (WHERE e.status = 'B') INTO v_held FROM mq_exception e WHERE c.ordering > 0 AND e.group_id = p_group AND e.topic_id = p_topic
         AND e.msg_id > v_from AND e.msg_id <= u.to_pos;
      UPDATE mq_cursor q SET era = q.era + 1, skipped = q.skipped - restored, later = q.later + restored - v_held, held = q.held + v_held
       WHERE q.group_id = p_group AND q.topic_id = p_topic;
      IF v_held > 0 THEN PERFORM mq_release_all(p_group, p_topic); END IF;
      INSERT INTO mq_span (group_id, topic_id, lo, hi, kind, filter_no, era, tags) SELECT s.group_id, s.topic_id, v_from, s.hi, 'D', s.filter_no, s.era, s.tags
        FROM mq_span s WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.lo = u.from_pos AND s.kind = 'K' AND s.lo < v_from;
      UPDATE mq_span s SET hi = v_from WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.lo = u.from_pos AND s.kind = 'K' AND s.lo < v_from;
      UPDATE mq_span s SET kind = 'D' WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.lo = u.from_pos AND s.kind = 'K' AND s.lo = v_from;
    END IF;
  END IF;
  DELETE FROM mq_undo q WHERE q.group_id = p_group AND q.topic_id = p_topic;
  DELETE FROM mq_undo_exception q WHERE q.group_id = p_group AND q.topic_id = p_topic;
END $$;
