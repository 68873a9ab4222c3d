-- Due within two months, most of them soon.
INSERT INTO mq_delayed (id, deliver_at, topic_id, tag, key, body)
  SELECT nextval('mq_id_seq'), now() + interval '1 hour' + pg_temp.u(i, 'due') ^ 2 * interval '60 days', b.id, 'created', 'key-' || i,
         convert_to(format('{{"remind": %s}}', i), 'UTF8')
    FROM generate_series(1, {delayed}::bigint) i
    JOIN busy b ON b.rank = 1 + floor((SELECT count(*) FROM busy) * pg_temp.u(i, 'delayed') ^ 2)::bigint;
