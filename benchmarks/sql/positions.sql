-- Most groups are at the end, some up to an hour behind, few never began.
INSERT INTO mq_group (group_id, max_attempts, suspended, retired, backoff_ms)
  SELECT id, max_attempts, suspended, state = 'retired', ARRAY[1000, 2000, 4000, 8000] FROM consumers_consumergroup
   WHERE state IN ('active', 'retired');
INSERT INTO mq_topic (topic_id, cut_id, checked_at)
  SELECT t.topic_id, coalesce((SELECT max(hi) FROM mq_stat s WHERE s.topic_id = t.topic_id AND tag = '*'), 0), now()
    FROM (SELECT DISTINCT s.topic_id FROM consumers_subscription s JOIN mq_group g USING (group_id)) t;
INSERT INTO mq_cursor (group_id, topic_id, pos, active, tags)
  SELECT s.group_id, s.topic_id,
         CASE WHEN pg_temp.u(s.group_id * 7 + s.topic_id, 'pos') < 0.88 THEN h.closed_id
              WHEN pg_temp.u(s.group_id * 7 + s.topic_id, 'pos') < 0.99 THEN h.closed_id - ((3600 * pg_temp.u(s.group_id, 'behind'))::bigint << 20)
              ELSE 0 END, NOT g.retired, CASE s.tags WHEN '*' THEN NULL ELSE ARRAY['created', 'paid'] END
    FROM consumers_subscription s JOIN mq_group g USING (group_id), mq_horizon h;
CREATE TEMP TABLE following ON COMMIT DROP AS
  SELECT c.* FROM mq_cursor c WHERE group_id IN (SELECT id FROM consumers_consumergroup) AND topic_id IN (SELECT id FROM topics_topic);
INSERT INTO mq_span (group_id, topic_id, lo, hi, kind, filter_no, tags)
  SELECT group_id, topic_id, 0, CASE WHEN NOT active THEN pos END, 'D', 1, tags FROM following WHERE active OR pos > 0;
INSERT INTO mq_span (group_id, topic_id, lo, kind) SELECT group_id, topic_id, pos, 'N' FROM following WHERE NOT active;
ANALYZE mq_cursor; ANALYZE mq_span;
UPDATE mq_cursor c SET succeeded = mq_count(c.topic_id, 0, c.pos, c.tags) FROM following f
 WHERE f.group_id = c.group_id AND f.topic_id = c.topic_id AND c.pos > 0;
-- what has been handed out was pulled 500 at a time and acknowledged
CREATE TEMP TABLE pulls ON COMMIT DROP AS
  SELECT topic_id, lag(hi, 1, 0::bigint) OVER (PARTITION BY topic_id ORDER BY hi) AS lo, hi, n FROM (
    SELECT topic_id, max(id) AS hi, count(*)::int AS n FROM (
      SELECT topic_id, id, row_number() OVER (PARTITION BY topic_id ORDER BY id) AS rn
        FROM mq_message WHERE topic_id IN (SELECT id FROM busy)) m GROUP BY topic_id, (rn - 1) / 500) x;
INSERT INTO mq_history (group_id, topic_id, lo, hi, token, pulled_at, settled_at, n, attempts, retried, consumer)
  SELECT c.group_id, c.topic_id, p.lo, p.hi, nextval('mq_token_seq'), mq_time_of(p.hi), mq_time_of(p.hi) + interval '2 s', p.n, 1, false,
         'worker-' || c.group_id % 8
    FROM following c JOIN pulls p ON p.topic_id = c.topic_id AND p.hi <= c.pos;
