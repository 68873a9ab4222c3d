-- What keeps the partitions of the log. They are days of ids, shared by all topics: one is dropped, always the oldest first, when it is over and
-- no group and no topic needs it any more.

-- Who still needs messages of a partition [lo, hi), and how many: W not handed out yet, P in a worker's hands, L to be retried, D dead and
-- neither redriven nor purged. It goes by the topics that have messages there and looks at those groups only whose position is below some of
-- them, so ten thousand groups that are up to date cost a probe each; the numbers come from the counters.
CREATE OR REPLACE FUNCTION mq_needed_by(p_lo bigint, p_hi bigint) RETURNS TABLE (group_id bigint, topic_id bigint, status "char", messages bigint) STABLE LANGUAGE plpgsql AS $$
BEGIN
  RETURN QUERY EXECUTE format($q$
    SELECT l.group_id, l.topic_id, 'P'::"char", sum(i.n)::bigint FROM mq_lease l CROSS JOIN LATERAL (
      SELECT mq_count(l.topic_id, greatest(l.lo, $1 - 1), least(l.hi, $2 - 1), l.tags) AS n OFFSET 0) i
     WHERE l.hi >= $1 AND l.lo < $2 - 1 AND i.n > 0 GROUP BY 1, 2
    UNION ALL
    SELECT g.group_id, e.topic_id, e.status, e.n FROM mq_group g CROSS JOIN LATERAL (
      SELECT x.topic_id, CASE x.status WHEN 'B' THEN 'W' ELSE x.status END::"char" AS status, count(*) AS n FROM mq_exception x
       WHERE x.group_id = g.group_id AND x.msg_id >= $1 AND x.msg_id < $2 AND x.status <> 'F' GROUP BY 1, 2) e
    UNION ALL
    SELECT c.group_id, c.topic_id, 'W'::"char", w.n FROM mq_topics_in(%1$L) t (topic_id) JOIN mq_cursor c ON c.topic_id = t.topic_id AND c.active AND c.pos < $2 - 1
     CROSS JOIN LATERAL (
      SELECT CASE WHEN EXISTS (SELECT FROM %1$s m WHERE m.topic_id = c.topic_id AND m.id > c.pos AND (c.tags IS NULL OR mq_has_tag(m.tag, c.tags)))
                  THEN mq_count(c.topic_id, greatest(c.pos, $1 - 1), $2 - 1, c.tags) END AS n OFFSET 0) w
     WHERE w.n > 0 $q$, mq_partition_of(p_lo, p_hi)) USING p_lo, p_hi;
END $$;

-- The partition of the log with these bounds.
CREATE OR REPLACE FUNCTION mq_partition_of(p_lo bigint, p_hi bigint) RETURNS regclass STABLE LANGUAGE plpgsql AS $$
DECLARE v_partition regclass;
BEGIN
  SELECT p.partition INTO v_partition FROM mq_partitions('mq_message') p WHERE p.lo::bigint = p_lo AND p.hi::bigint = p_hi;
  IF v_partition IS NULL THEN RAISE EXCEPTION 'no partition of the log from % to %', p_lo, p_hi USING ERRCODE = 'no_data_found'; END IF;
  RETURN v_partition;
END $$;

-- The topics that have messages in a partition, of the log or of the delayed ones: a probe for each.
CREATE OR REPLACE FUNCTION mq_topics_in(p_partition regclass) RETURNS SETOF bigint STABLE LANGUAGE plpgsql AS $$
BEGIN
  RETURN QUERY EXECUTE format('WITH RECURSIVE t (topic_id) AS (
      (SELECT topic_id FROM %1$s ORDER BY topic_id LIMIT 1)
      UNION ALL
      SELECT n.topic_id FROM t CROSS JOIN LATERAL (SELECT p.topic_id FROM %1$s p WHERE p.topic_id > t.topic_id ORDER BY p.topic_id LIMIT 1) n)
    SELECT t.topic_id FROM t', p_partition);
END $$;

-- Which topics need messages of a partition [lo, hi) and until when: those with an age of their own until the last of them is as old; a topic
-- without one until p_keep after the day's end, and after the last group was done with the day (NULL: some group is not). None does for what
-- lies below its floor, nor for what goes when all groups are done.
CREATE OR REPLACE FUNCTION mq_needed_by_topics(p_lo bigint, p_hi bigint, p_keep interval) RETURNS TABLE (topic_id bigint, until timestamptz, own boolean)
STABLE LANGUAGE plpgsql AS $$
DECLARE v_week timestamptz := (SELECT greatest(mq_time_of(p_hi), d.done_since) + p_keep FROM mq_done d WHERE d.hi = p_hi);
BEGIN
  RETURN QUERY EXECUTE format($q$
    SELECT t.topic_id, u.until, u.own FROM mq_topics_in(%1$L) t (topic_id)
      LEFT JOIN mq_retention x ON x.topic_id = t.topic_id
     CROSS JOIN LATERAL (SELECT m.id, m.sent_at FROM %1$s m WHERE m.topic_id = t.topic_id ORDER BY m.id DESC LIMIT 1) last
     CROSS JOIN LATERAL (SELECT x.mode IN ('D', 'L') AND x.age_s > 0 IS TRUE AS own,
                                CASE WHEN x.mode IN ('D', 'L') AND x.age_s > 0 THEN last.sent_at + x.age_s * interval '1 s' ELSE $1 END AS until) u
     WHERE last.id > coalesce(x.floor_id, 0) AND NOT (x.mode = 'D' AND x.age_s = 0 AND x.size_bytes = 0) IS TRUE
       AND (u.until > clock_timestamp()) IS NOT FALSE $q$, mq_partition_of(p_lo, p_hi)) USING v_week;
END $$;

-- The partitions of the log whose time is over, oldest first: all of them, with what keeps them. Nothing in a row: nobody needs it.
CREATE OR REPLACE FUNCTION mq_kept(p_keep interval DEFAULT '7 days') RETURNS TABLE (partition text, lo bigint, hi bigint, group_id bigint, topic_id bigint, status "char", messages bigint)
STABLE LANGUAGE sql AS $$
  SELECT p.partition::text, p.lo::bigint, p.hi::bigint, n.group_id, n.topic_id, n.status, n.messages
    FROM mq_partitions('mq_message') p LEFT JOIN LATERAL mq_needed_by(p.lo::bigint, p.hi::bigint) n ON true
   WHERE p.hi::bigint <= mq_id_at(clock_timestamp() - p_keep) ORDER BY p.lo::bigint, n.group_id, n.topic_id $$;

-- Look whether some group needs the oldest closed partition from p_from on; of one that nobody needs it is written down since when. Returns it and
-- whether it is needed; no row: all have been looked at. Marks are taken back, of all that are newer too, where somebody has come who needs it (a group that
-- begins at the earliest message).
CREATE OR REPLACE FUNCTION mq_mark_done(p_from bigint) RETURNS TABLE (partition text, hi bigint, needed boolean) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE v_closed bigint := (SELECT closed_id FROM mq_horizon); v_lo bigint;
BEGIN
  SELECT p.partition::text, p.lo::bigint, p.hi::bigint INTO mq_mark_done.partition, v_lo, mq_mark_done.hi
    FROM mq_partitions('mq_message') p WHERE p.lo::bigint >= p_from AND p.hi::bigint <= v_closed + 1 ORDER BY p.lo::bigint LIMIT 1;
  IF NOT FOUND THEN RETURN; END IF;
  mq_mark_done.needed := EXISTS (SELECT FROM mq_needed_by(v_lo, mq_mark_done.hi));
  IF mq_mark_done.needed THEN
    DELETE FROM mq_done d WHERE d.hi >= mq_mark_done.hi;
  ELSE
    INSERT INTO mq_done (hi) VALUES (mq_mark_done.hi) ON CONFLICT DO NOTHING;
  END IF;
  RETURN NEXT;
END $$;

-- Cut the counters exactly below an id, so that no count needs the rows that go: per topic one cut at the bound, the older ones deleted
-- except each tag's newest, whose cumulative count later rows build on; what unsubscribed groups have skipped there becomes a number.
-- At most p_most of each; call again until 0.
CREATE OR REPLACE FUNCTION mq_cut_at(p_bound bigint, p_most int DEFAULT 100) RETURNS int LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE t record; v_span record; v_at bigint := p_bound - 1; k int := 0;
BEGIN
  FOR t IN SELECT c.group_id, c.topic_id FROM mq_cursor c
            WHERE NOT c.active AND EXISTS (SELECT FROM mq_span x WHERE x.group_id = c.group_id AND x.topic_id = c.topic_id AND x.kind = 'K' AND x.lo >= c.pos AND x.lo < v_at)
            ORDER BY c.group_id, c.topic_id LIMIT p_most LOOP
    PERFORM mq_lock_group(t.group_id);
    FOR v_span IN SELECT x.* FROM mq_span x JOIN mq_cursor c ON c.group_id = x.group_id AND c.topic_id = x.topic_id AND NOT c.active
              WHERE x.group_id = t.group_id AND x.topic_id = t.topic_id AND x.kind = 'K' AND x.lo >= c.pos AND x.lo < v_at LOOP
      UPDATE mq_cursor c SET skipped = c.skipped + mq_count(v_span.topic_id, v_span.lo, least(v_span.hi, v_at), v_span.tags) WHERE c.group_id = v_span.group_id AND c.topic_id = v_span.topic_id;
      IF v_span.hi <= v_at THEN
        DELETE FROM mq_span x WHERE x.group_id = v_span.group_id AND x.topic_id = v_span.topic_id AND x.lo = v_span.lo;
      ELSE
        UPDATE mq_span x SET lo = v_at WHERE x.group_id = v_span.group_id AND x.topic_id = v_span.topic_id AND x.lo = v_span.lo;
      END IF;
    END LOOP;
    k := k + 1;
  END LOOP;
  IF k > 0 THEN RETURN k; END IF;   -- the groups' locks go before the counters' is taken
  PERFORM pg_advisory_xact_lock(7310002);   -- as mq_cut
  FOR t IN SELECT q.topic_id, q.cut_id FROM mq_topic q
            WHERE EXISTS (SELECT FROM mq_stat s WHERE s.topic_id = q.topic_id AND s.tag = '*' AND s.hi < v_at)
            ORDER BY q.topic_id LIMIT p_most LOOP
    INSERT INTO mq_stat (topic_id, tag, hi, cum)
      SELECT t.topic_id, x.tag, v_at, x.n + coalesce((SELECT s.cum FROM mq_stat s WHERE s.topic_id = t.topic_id AND s.tag = x.tag AND s.hi <= v_at ORDER BY s.hi DESC LIMIT 1), 0)
        FROM (SELECT coalesce(m.tag, '*') AS tag, count(*) AS n FROM mq_message m
               WHERE m.topic_id = t.topic_id AND m.id <= v_at
                 AND m.id > (SELECT max(s.hi) FROM mq_stat s WHERE s.topic_id = t.topic_id AND s.tag = '*' AND s.hi <= v_at)
               GROUP BY GROUPING SETS ((m.tag), ())) x
      ON CONFLICT DO NOTHING;
    DELETE FROM mq_stat s WHERE s.topic_id = t.topic_id AND s.hi < v_at
       AND (s.tag = '*' OR EXISTS (SELECT FROM mq_stat n WHERE n.topic_id = s.topic_id AND n.tag = s.tag AND n.hi > s.hi AND n.hi <= v_at));
    UPDATE mq_topic SET cut_id = v_at WHERE topic_id = t.topic_id AND cut_id < v_at;
    k := k + 1;
  END LOOP;
  RETURN k;
END $$;

-- Looked at once more, right before the drop: a group that has just come in at the earliest message needs all.
CREATE OR REPLACE FUNCTION mq_may_drop(p_lo bigint, p_hi bigint, p_keep interval) RETURNS boolean STABLE LANGUAGE sql AS $$
  SELECT p_hi <= (SELECT closed_id FROM mq_horizon) + 1 AND EXISTS (SELECT FROM mq_done d WHERE d.hi = p_hi)
     AND NOT EXISTS (SELECT FROM mq_needed_by_topics(p_lo, p_hi, p_keep)) AND NOT EXISTS (SELECT FROM mq_needed_by(p_lo, p_hi)) $$;
