-- One group in twenty has dead letters, in a few of them they pile up; retries that are due later, leases that stand.
CREATE TEMP TABLE troubled ON COMMIT DROP AS
  SELECT c.group_id, c.topic_id, c.pos, c.tags, row_number() OVER (ORDER BY pg_temp.u(c.group_id, 'trouble') / x.n, c.group_id) AS rank
    FROM following c JOIN (SELECT topic_id, min(id) AS first, count(*) AS n FROM mq_message GROUP BY 1) x ON x.topic_id = c.topic_id
   WHERE c.active AND c.pos >= x.first;
INSERT INTO mq_exception (group_id, msg_id, topic_id, due_at, pulled_at, first_at, last_at, attempts, redrives, status, consumer, error)
SELECT x.group_id, x.id, x.topic_id, CASE x.status WHEN 'L' THEN now() + interval '1 hour' END, mq_time_of(x.id), mq_time_of(x.id),
       mq_time_of(x.id) + interval '1 min', CASE x.status WHEN 'D' THEN 16 ELSE 3 END, 0, x.status::"char", 'worker-' || x.group_id % 8,
       pg_temp.pick(x.id, 'error', ARRAY['timeout after 3000 ms calling billing','duplicate key value violates unique constraint','cannot parse field amount', 'connection refused: inventory:8080','customer 4711 not found','HTTP 503 from payment gateway'])
  FROM (SELECT DISTINCT ON (z.group_id, z.id) *, CASE WHEN u < {dead_share} THEN 'D' WHEN u < {dead_share} + 0.02 THEN 'F' ELSE 'L' END AS status
          FROM (SELECT t.group_id, t.topic_id, m.id, pg_temp.u(m.id + t.group_id, 'how') AS u FROM troubled t CROSS JOIN LATERAL (
                  SELECT id FROM mq_message m WHERE m.topic_id = t.topic_id AND m.id <= t.pos AND (t.tags IS NULL OR m.tag = ANY (t.tags))
                   ORDER BY id DESC LIMIT 5 + {troubled} / 5 / t.rank) m
                 WHERE t.rank <= {some} ORDER BY t.rank, m.id LIMIT {troubled}) z) x;
INSERT INTO mq_lease (group_id, token, topic_id, lo, hi, lease_until, pulled_at, n, left_n, alone, tags, consumer)
  SELECT t.group_id, nextval('mq_token_seq'), t.topic_id, m.lo - 1, m.hi, now() + interval '2 hours', now(), m.n, m.n, false, t.tags, 'worker-1'
    FROM troubled t CROSS JOIN LATERAL (SELECT min(id) AS lo, max(id) AS hi, count(*)::int AS n FROM (
      SELECT m.id FROM mq_message m WHERE m.topic_id = t.topic_id AND m.id <= t.pos AND (t.tags IS NULL OR m.tag = ANY (t.tags))
       ORDER BY m.id DESC LIMIT 20) z) m
   WHERE rank BETWEEN {some} + 1 AND {some} + 300;
UPDATE mq_cursor c SET processing = l.n, succeeded = c.succeeded - l.n FROM mq_lease l JOIN following f USING (group_id, topic_id)
 WHERE l.group_id = c.group_id AND l.topic_id = c.topic_id;
UPDATE mq_cursor c SET dead = x.dead, later = x.later, failed = x.failed, succeeded = c.succeeded - x.n
  FROM (SELECT group_id, topic_id, count(*) AS n, count(*) FILTER (WHERE status = 'D') AS dead, count(*) FILTER (WHERE status = 'L') AS later,
               count(*) FILTER (WHERE status = 'F') AS failed FROM mq_exception JOIN following USING (group_id, topic_id) GROUP BY 1, 2) x
 WHERE x.group_id = c.group_id AND x.topic_id = c.topic_id;
