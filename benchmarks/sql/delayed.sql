-- Due within two months, most of them soon.
INSERT INTO mq_delayed (id, deliver_at, topic_id, tag, key, body)
  SELECT nextval('mq_id_seq'), now() + interval '1 hour' + pg_temp.u(i, 'due') ^ 2 * interval '60 days', b.id, 'created', 'key-' || i,
         convert_to(format('{{"remind": %s}}', i), 'UTF8')
    FROM generate_series(1, {delayed}::bigint) i
    JOIN busy b ON b.rank = 1 + floor((SELECT count(*) FROM busy) * pg_temp.u(i, 'delayed') ^ 2)::bigint;

-- Half messages: most committed or rolled back, some still open, some waiting for a person.
INSERT INTO mq_half (id, topic_id, prepared_at, check_at, check_ms, decided_at, checks, state, key, body)
  SELECT nextval('mq_id_seq'), b.id, now() - i * interval '1 second', now() + interval '1 hour', 60000,
         CASE WHEN w.state IN ('C', 'R') THEN now() END, CASE w.state WHEN 'U' THEN 15 ELSE 0 END, w.state::"char", 'pay-' || i,
         CASE WHEN w.state IN ('O', 'U') THEN convert_to(format('{{"pay": %s}}', i), 'UTF8') ELSE '' END
    FROM generate_series(1, {half}::bigint) i
    JOIN busy b ON b.rank = 1 + floor((SELECT count(*) FROM busy) * pg_temp.u(i, 'half') ^ 2)::bigint,
         LATERAL (SELECT (ARRAY['O', 'U', 'C', 'C', 'R'])[1 + i % 5] AS state) w;
