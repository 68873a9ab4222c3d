-- Over the last day, as far back as there are partitions without a gap: a tenth of all in the busiest topic, tens in most.
-- Whatever else stands in the store is let be: it belongs to topics and groups that are not in the tables of topics and groups.
CREATE TEMP TABLE busy ON COMMIT DROP AS SELECT id, row_number() OVER (ORDER BY id) AS rank FROM topics_topic
 WHERE state IN ('active', 'retired') AND cluster_id = (SELECT id FROM clusters_cluster WHERE kind = 'builtin');
ALTER TABLE busy ADD PRIMARY KEY (rank);
INSERT INTO mq_message (topic_id, id, sent_at, tag, key, headers, body)
SELECT b.id, e.lo + 1 + x.i * e.step, mq_time_of(e.lo + 1 + x.i * e.step), x.tag,
       CASE WHEN x.i % 4 < 3 THEN 'key-' || x.i % 50000 END, CASE WHEN x.i % 3 = 0 THEN '{{"trace":"' || x.i || '"}}' END,
       convert_to(format('{{"number": %s, "amount": %s.50, "note": "%s"}}', x.i, x.i % 997, repeat('abcdefghi ', (x.i % 20)::int)), 'UTF8')
  FROM (SELECT i, pg_temp.pick(i, 'tag', ARRAY['created','paid','cancelled','']) AS tag,
               1 + floor((SELECT count(*) FROM busy) * pg_temp.u(i, 'where') ^ 4)::bigint AS rank
          FROM generate_series(0, {messages} - 1::bigint) i) x
  JOIN busy b ON b.rank = x.rank,
       (SELECT w.lo, (h.closed_id - w.lo - 1) / {messages} AS step FROM mq_horizon h, LATERAL (SELECT greatest({first}, h.closed_id - (86400::bigint << 20)) AS lo) w) e
 ORDER BY b.id, x.i;
-- Counters, as mq_cut would have cut them: at every thousandth message of a topic, by tag and in all.
CREATE TEMP TABLE cuts ON COMMIT DROP AS
  SELECT topic_id, tag, (rn - 1) / 1000 AS block, max(id) AS hi, count(*) AS n FROM (
    SELECT topic_id, id, tag, row_number() OVER (PARTITION BY topic_id ORDER BY id) AS rn,
           count(*) OVER (PARTITION BY topic_id) AS of_all FROM mq_message WHERE topic_id IN (SELECT id FROM busy)) m
   WHERE (rn - 1) / 1000 < of_all / 1000 GROUP BY 1, 2, 3;
INSERT INTO mq_stat (topic_id, tag, hi, cum)
  SELECT topic_id, tag, max(hi) OVER (PARTITION BY topic_id, block), sum(n) OVER (PARTITION BY topic_id, tag ORDER BY block) FROM cuts
  UNION ALL SELECT topic_id, '*', max(hi), (block + 1) * 1000 FROM cuts GROUP BY topic_id, block;
ANALYZE mq_stat; ANALYZE mq_message
