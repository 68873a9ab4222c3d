-- Retention: a partition of the log is dropped when all groups are done with it and have been for a while. Partitions are shared by all
-- topics, so the time to keep is one for all of them, and what one group still needs keeps the whole partition.

-- Who still needs messages with ids in [lo, hi), and how many: W not handed out yet, P in a worker's hands, L to be retried, D dead and
-- neither redriven nor purged. Counters and one probe per group: it reads no messages but a short tail.
CREATE OR REPLACE FUNCTION mq_needed_by(p_lo bigint, p_hi bigint) RETURNS TABLE (group_id bigint, topic_id bigint, status "char", messages bigint) STABLE LANGUAGE sql AS $$
  SELECT l.group_id, l.topic_id, 'P'::"char", sum(i.n)::bigint FROM mq_lease l CROSS JOIN LATERAL (
    SELECT mq_count(l.topic_id, greatest(l.lo, p_lo - 1), least(l.hi, p_hi - 1), l.tags) AS n) i
   WHERE l.hi >= p_lo AND l.lo < p_hi - 1 AND i.n > 0 GROUP BY 1, 2
  UNION ALL
  SELECT g.group_id, e.topic_id, e.status, e.n FROM mq_group g CROSS JOIN LATERAL (
    SELECT x.topic_id, CASE x.status WHEN 'B' THEN 'W' ELSE x.status END::"char" AS status, count(*) AS n FROM mq_exception x
     WHERE x.group_id = g.group_id AND x.msg_id >= p_lo AND x.msg_id < p_hi AND x.status <> 'F' GROUP BY 1, 2) e
  UNION ALL
  SELECT c.group_id, c.topic_id, 'W'::"char", w.n FROM mq_cursor c CROSS JOIN LATERAL (
    SELECT mq_count(c.topic_id, greatest(c.pos, p_lo - 1), p_hi - 1, c.tags) AS n) w
   WHERE c.active AND c.pos < p_hi - 1 AND w.n > 0 $$;

-- The partitions of the log whose time is over, oldest first: all of them, with what keeps them. Nothing in a row: nobody needs it.
CREATE OR REPLACE FUNCTION mq_kept(p_keep interval DEFAULT '7 days') RETURNS TABLE (partition text, lo bigint, hi bigint, group_id bigint, topic_id bigint, status "char", messages bigint)
STABLE LANGUAGE sql AS $$
  SELECT p.partition::text, p.lo::bigint, p.hi::bigint, n.group_id, n.topic_id, n.status, n.messages
    FROM mq_partitions('mq_message') p LEFT JOIN LATERAL mq_needed_by(p.lo::bigint, p.hi::bigint) n ON true
   WHERE p.hi::bigint <= mq_id_at(clock_timestamp() - p_keep) ORDER BY p.lo::bigint, n.group_id, n.topic_id $$;

-- Mark the partitions that nobody needs, from the oldest on until one that somebody does; returns the name of that one, NULL for none.
-- Marks are taken back where somebody has come who needs it (a group that begins at the earliest message).
CREATE OR REPLACE FUNCTION mq_mark_done() RETURNS text LANGUAGE plpgsql AS $$
DECLARE p record; v_closed bigint := (SELECT closed_id FROM mq_horizon);
BEGIN
  FOR p IN SELECT x.partition::text AS name, x.lo::bigint AS lo, x.hi::bigint AS hi FROM mq_partitions('mq_message') x WHERE x.hi::bigint <= v_closed + 1 ORDER BY x.lo::bigint LOOP
    IF EXISTS (SELECT FROM mq_needed_by(p.lo, p.hi)) THEN
      DELETE FROM mq_done WHERE hi >= p.hi;
      RETURN p.name;
    END IF;
    INSERT INTO mq_done (hi) VALUES (p.hi) ON CONFLICT DO NOTHING;
  END LOOP;
  RETURN NULL;
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

-- A group that has just come in at the earliest message needs all: looked at once more, right before the drop.
CREATE OR REPLACE FUNCTION mq_may_drop(p_lo bigint, p_hi bigint, p_keep interval) RETURNS boolean STABLE LANGUAGE sql AS $$
  SELECT p_hi <= mq_id_at(clock_timestamp() - p_keep)
     AND EXISTS (SELECT FROM mq_done d WHERE d.hi = p_hi AND d.done_since <= clock_timestamp() - p_keep)
     AND NOT EXISTS (SELECT FROM mq_needed_by(p_lo, p_hi)) $$;
