-- Retention of a topic: everything at or below its floor is gone, for every verb and every group, but for who has it in hand, is to retry it or
-- has it as a dead letter. A floor hides; the rows go with their partition (retention.sql). By a topic's rule its floor moves in three
-- steps, each a short transaction: it is said where it goes, so nobody begins or goes back below that; the positions that are below it are moved on;
-- it arrives. Where groups are waited for, the first step is all.

-- Set a topic's rule. The counters of a topic without groups are kept from now on: its size is an estimate from its count.
CREATE OR REPLACE FUNCTION mq_retention_put(p_topic bigint, p_mode "char", p_age_s bigint, p_size_bytes bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO mq_topic (topic_id) VALUES (p_topic) ON CONFLICT DO NOTHING;
  INSERT INTO mq_retention AS x (topic_id, mode, age_s, size_bytes) VALUES (p_topic, p_mode, p_age_s, p_size_bytes)
    ON CONFLICT (topic_id) DO UPDATE SET mode = p_mode, age_s = p_age_s, size_bytes = p_size_bytes, looked_at = '-infinity';
END $$;

CREATE OR REPLACE FUNCTION mq_floor(p_topic bigint) RETURNS bigint STABLE LANGUAGE sql AS
$$ SELECT coalesce((SELECT x.floor_id FROM mq_retention x WHERE x.topic_id = p_topic), 0) $$;

-- The lowest position that a group may begin at or go back to.
CREATE OR REPLACE FUNCTION mq_first_position(p_topic bigint) RETURNS bigint STABLE LANGUAGE sql AS $$
  SELECT greatest(mq_oldest() - 1, mq_expired_to(p_topic), (SELECT x.ending_id FROM mq_retention x WHERE x.topic_id = p_topic)) $$;

-- How far down a group may be taken; until the end of the transaction the floor stays where it is. With the group's row locked.
CREATE OR REPLACE FUNCTION mq_retention_hold(p_topic bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE v_ending bigint;
BEGIN
  SELECT x.ending_id INTO v_ending FROM mq_retention x WHERE x.topic_id = p_topic FOR SHARE;
  RETURN coalesce(v_ending, 0);
END $$;

-- Whether a message is there: above the floor, or in the hands of a group, to be retried by it, or its dead letter.
CREATE OR REPLACE FUNCTION mq_visible(p_topic bigint, p_id bigint, p_tag text) RETURNS boolean STABLE LANGUAGE sql AS $$
  SELECT p_id > mq_floor(p_topic) OR EXISTS (SELECT FROM mq_cursor c WHERE c.topic_id = p_topic AND (
           EXISTS (SELECT FROM mq_exception e WHERE e.group_id = c.group_id AND e.msg_id = p_id AND e.status <> 'F')
        OR EXISTS (SELECT FROM mq_lease l WHERE l.group_id = c.group_id AND l.topic_id = p_topic AND l.lo < p_id AND l.hi >= p_id
                      AND CASE WHEN l.tags IS NULL OR mq_has_tag(p_tag, l.tags) THEN l.acked IS NULL OR get_bit(l.acked, 2 * (
                            SELECT count(*)::int FROM mq_message x WHERE x.topic_id = p_topic AND x.id > l.lo AND x.id < p_id
                               AND (l.tags IS NULL OR mq_has_tag(x.tag, l.tags)))) = 0 END))) $$;

-- What a topic's messages in (p_lo, p_hi] take on disk, in 32 parts of about the same time, newest first: each counted exactly, its messages
-- taken to be as large as four of them. 90 bytes are the row's head and its place in the primary key.
CREATE OR REPLACE FUNCTION mq_sizes(p_topic bigint, p_lo bigint, p_hi bigint) RETURNS TABLE (lo bigint, hi bigint, messages bigint, bytes bigint) STABLE LANGUAGE plpgsql
SET enable_sort = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE v_from bigint; v_step bigint;
BEGIN
  SELECT greatest(p_lo, m.id - 1) INTO v_from FROM mq_message m WHERE m.topic_id = p_topic AND m.id > p_lo AND m.id <= p_hi ORDER BY m.id LIMIT 1;
  IF v_from IS NULL THEN RETURN; END IF;
  v_step := (p_hi - v_from) / 32 + 1;
  RETURN QUERY SELECT x.lo, x.hi, n.n, (n.n * s.each)::bigint
    FROM (SELECT v_from + i * v_step AS lo, least(v_from + (i + 1) * v_step, p_hi) AS hi FROM generate_series(31, 0, -1) i) x
   CROSS JOIN LATERAL (SELECT mq_count(p_topic, x.lo, x.hi, NULL) AS n) n
   CROSS JOIN LATERAL (SELECT coalesce(avg(90 + pg_column_size(q.body) + coalesce(2 * pg_column_size(q.key) + 20, 0) + coalesce(pg_column_size(q.skey), 0)
                                           + coalesce(pg_column_size(q.headers), 0) + pg_column_size(q.tag)), 0) AS each
                         FROM (SELECT m.* FROM mq_message m WHERE m.topic_id = p_topic AND m.id > x.lo AND m.id <= x.hi AND n.n > 0 ORDER BY m.id LIMIT 4) q) s
   WHERE n.n > 0;
END $$;

-- Behind which position a topic's messages are of this size together.
CREATE OR REPLACE FUNCTION mq_size_position(p_topic bigint, p_lo bigint, p_hi bigint, p_bytes bigint) RETURNS bigint STABLE LANGUAGE plpgsql AS $$
DECLARE s record; v_left bigint := p_bytes; v_fits bigint; v_lo bigint; v_hi bigint; v_mid bigint;
BEGIN
  FOR s IN SELECT * FROM mq_sizes(p_topic, p_lo, p_hi) LOOP
    IF s.bytes > v_left THEN   -- in this part: as many from its end on as there is room for
      v_fits := s.messages * v_left / s.bytes;
      v_lo := s.lo; v_hi := s.hi;
      WHILE v_hi - v_lo > 1 LOOP
        v_mid := (v_lo + v_hi) / 2;
        IF mq_count(p_topic, v_mid, s.hi, NULL) > v_fits THEN v_lo := v_mid; ELSE v_hi := v_mid; END IF;
      END LOOP;
      RETURN v_hi;
    END IF;
    v_left := v_left - s.bytes;
  END LOOP;
  RETURN p_lo;
END $$;

-- The lowest position on a topic of a group for which something up to p_upto waits; NULL: for none. Of groups with the same filter the one
-- that is furthest behind has most, so each filter is counted once.
CREATE OR REPLACE FUNCTION mq_waits_from(p_topic bigint, p_upto bigint) RETURNS bigint STABLE LANGUAGE sql AS $$
  SELECT min(f.pos) FROM (SELECT min(c.pos) AS pos, c.tags FROM mq_cursor c WHERE c.topic_id = p_topic AND c.active AND c.pos < p_upto GROUP BY c.tags) f
   WHERE mq_count(p_topic, f.pos, p_upto, f.tags) > 0 $$;

-- The topics that were not looked at for longest.
CREATE OR REPLACE FUNCTION mq_retention_turn(p_most int, p_every interval) RETURNS SETOF bigint STABLE LANGUAGE sql AS $$
  SELECT x.topic_id FROM mq_retention x WHERE x.mode <> 'S' AND x.looked_at < clock_timestamp() - p_every ORDER BY x.looked_at LIMIT p_most $$;

-- Look how far the floor of a topic should go, and say so: from then on nobody begins or goes back below it. True: it is to go on.
CREATE OR REPLACE FUNCTION mq_retention_look(p_topic bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE x mq_retention; v_closed bigint := (SELECT closed_id FROM mq_horizon); v_due bigint; v_oldest timestamptz;
BEGIN
  SELECT * INTO x FROM mq_retention q WHERE q.topic_id = p_topic;
  IF x.mode IS NULL OR x.mode = 'S' THEN RETURN false; END IF;
  v_due := x.ending_id;
  SELECT m.sent_at INTO v_oldest FROM mq_message m WHERE m.topic_id = p_topic AND m.id > x.ending_id AND m.id <= v_closed ORDER BY m.id LIMIT 1;
  IF v_oldest IS NOT NULL THEN
    IF x.age_s = 0 AND x.size_bytes = 0 THEN v_due := v_closed; END IF;
    IF x.age_s > 0 AND v_oldest < clock_timestamp() - x.age_s * interval '1 s' THEN
      v_due := coalesce(mq_position_at(p_topic, clock_timestamp() - x.age_s * interval '1 s'), v_closed);
    END IF;
    IF x.size_bytes > 0 THEN v_due := greatest(v_due, mq_size_position(p_topic, x.ending_id, v_closed, x.size_bytes)); END IF;
  END IF;
  PERFORM FROM mq_retention q WHERE q.topic_id = p_topic FOR UPDATE;   -- from here on nobody goes back; who has gone is seen below
  IF x.mode = 'D' THEN v_due := least(v_due, mq_waits_from(p_topic, v_due)); END IF;
  UPDATE mq_retention q SET looked_at = clock_timestamp(), ending_id = greatest(q.ending_id, v_due),
         floor_id = CASE WHEN x.mode = 'D' THEN greatest(q.floor_id, v_due) ELSE q.floor_id END
   WHERE q.topic_id = p_topic AND q.mode = x.mode AND q.age_s = x.age_s AND q.size_bytes = x.size_bytes;
  RETURN FOUND AND (SELECT q.ending_id > q.floor_id FROM mq_retention q WHERE q.topic_id = p_topic);
END $$;

-- The groups that have not taken what is to go.
CREATE OR REPLACE FUNCTION mq_retention_late(p_topic bigint) RETURNS SETOF bigint STABLE LANGUAGE sql AS $$
  SELECT c.group_id FROM mq_retention x JOIN mq_cursor c ON c.topic_id = x.topic_id AND c.active AND c.pos < x.ending_id
   WHERE x.topic_id = p_topic AND mq_waits_from(p_topic, x.ending_id) IS NOT NULL AND mq_count(p_topic, c.pos, x.ending_id, c.tags) > 0
   ORDER BY 1 $$;

-- What waits for a group up to where the floor goes is skipped: the position moves on, whatever the number. Of one that has unsubscribed what it
-- had skipped there becomes a number, before it comes back with another filter.
CREATE OR REPLACE FUNCTION mq_retention_pass(p_group bigint, p_topic bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE c mq_cursor; v_to bigint; v_n bigint;
BEGIN
  PERFORM FROM mq_group g WHERE g.group_id = p_group FOR NO KEY UPDATE;
  SELECT x.ending_id INTO v_to FROM mq_retention x WHERE x.topic_id = p_topic;
  SELECT * INTO c FROM mq_cursor q WHERE q.group_id = p_group AND q.topic_id = p_topic;
  IF c.pos IS NULL OR v_to IS NULL OR c.pos >= v_to THEN RETURN 0; END IF;
  IF NOT c.active THEN
    SELECT coalesce(sum(mq_count(p_topic, s.lo, least(s.hi, v_to), s.tags)), 0) INTO v_n FROM mq_span s
     WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.kind = 'K' AND s.lo >= c.pos AND s.lo < v_to;
    INSERT INTO mq_span (group_id, topic_id, lo, hi, kind, filter_no, era, tags)
      SELECT s.group_id, s.topic_id, v_to, s.hi, s.kind, s.filter_no, s.era, s.tags FROM mq_span s
       WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.lo >= c.pos AND s.lo < v_to AND (s.hi IS NULL OR s.hi > v_to);
    UPDATE mq_span s SET hi = v_to WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.lo >= c.pos AND s.lo < v_to AND (s.hi IS NULL OR s.hi > v_to);
    UPDATE mq_cursor q SET pos = v_to, skipped = q.skipped + v_n WHERE q.group_id = p_group AND q.topic_id = p_topic;
    RETURN v_n;
  END IF;
  v_n := mq_count(p_topic, c.pos, v_to, c.tags);
  UPDATE mq_cursor q SET pos = v_to, skipped = q.skipped + v_n WHERE q.group_id = p_group AND q.topic_id = p_topic;
  IF v_n = 0 THEN RETURN 0; END IF;
  UPDATE mq_span s SET hi = c.pos WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.hi IS NULL;
  DELETE FROM mq_span s WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.hi <= s.lo;
  -- A group that stands still is passed again and again: one span of it all. One that a person skipped stays by itself, it can be taken back.
  UPDATE mq_span s SET hi = v_to WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.hi = c.pos AND s.kind = 'K' AND s.filter_no = c.filter_no AND s.era = c.era
     AND NOT EXISTS (SELECT FROM mq_undo u WHERE u.group_id = p_group AND u.topic_id = p_topic AND u.to_pos = c.pos);
  IF NOT FOUND THEN
    INSERT INTO mq_span (group_id, topic_id, lo, hi, kind, filter_no, tags) VALUES (p_group, p_topic, c.pos, v_to, 'K', c.filter_no, c.tags);
  END IF;
  INSERT INTO mq_span (group_id, topic_id, lo, kind, filter_no, tags) VALUES (p_group, p_topic, v_to, 'D', c.filter_no, c.tags);
  RETURN v_n;
END $$;

-- The floor arrives where it was to go, as soon as nothing below it waits for anybody.
CREATE OR REPLACE FUNCTION mq_retention_arrive(p_topic bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM mq_retention q WHERE q.topic_id = p_topic FOR UPDATE;
  UPDATE mq_retention q SET floor_id = q.ending_id WHERE q.topic_id = p_topic AND q.floor_id < q.ending_id AND mq_waits_from(p_topic, q.ending_id) IS NULL;
END $$;
