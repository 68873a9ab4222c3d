-- Group commit: single sends of many producers, to any topics, in one statement and so in one commit.

-- As mq_send_one for each, in the order given. No (topic, producer's id) stands twice among them (the service sees to it).
-- Results have the place of their message; a repetition has the id and the due time of the first result.
CREATE FUNCTION mq_send_group(p_topics bigint[], p_producer_ids text[], p_due timestamptz[], p_tags text[], p_keys text[], p_skeys text[],
                              p_headers text[], p_bodies bytea[], OUT ids bigint[], OUT due timestamptz[], OUT duplicates boolean[]) LANGUAGE plpgsql AS $$
DECLARE n int := cardinality(p_bodies); v_claim bigint; v_drawn bigint[]; v_timeout text; v_old boolean := false; v_now int := n; k int := 0;
BEGIN
  duplicates := array_fill(false, ARRAY[n]);
  due := p_due;
  IF p_producer_ids IS NOT NULL THEN
    -- One whose id is in somebody's open transaction must not keep the others waiting: the statement fails, and each goes alone.
    v_timeout := current_setting('lock_timeout');
    PERFORM set_config('lock_timeout', '50ms', true);
    v_claim := nextval('mq_claim_seq');
    BEGIN   -- sorted, before the message lock: see mq_claim_ids
      INSERT INTO mq_producer_id (topic_id, producer_id, claim, ord)
        SELECT u.topic, u.pid, v_claim, u.ord FROM unnest(p_topics, p_producer_ids) WITH ORDINALITY u(topic, pid, ord)
         WHERE u.pid IS NOT NULL ORDER BY u.topic, u.pid COLLATE "C";
    EXCEPTION WHEN unique_violation THEN v_old := true;
    END;
    IF v_old THEN
      INSERT INTO mq_producer_id (topic_id, producer_id, claim, ord)
        SELECT u.topic, u.pid, v_claim, u.ord FROM unnest(p_topics, p_producer_ids) WITH ORDINALITY u(topic, pid, ord)
         WHERE u.pid IS NOT NULL ORDER BY u.topic, u.pid COLLATE "C" ON CONFLICT DO NOTHING;
      -- a new statement sees what the other sender has committed meanwhile
      SELECT array_agg(x.id ORDER BY x.ord), array_agg(CASE WHEN x.id IS NULL THEN p_due[x.ord] ELSE x.due END ORDER BY x.ord),
             array_agg(x.id IS NOT NULL ORDER BY x.ord), count(*) FILTER (WHERE x.id IS NULL)
        INTO ids, due, duplicates, v_now FROM (
        SELECT u.ord, c.ids[p.ord] AS id, c.due[p.ord] AS due
          FROM unnest(p_topics, p_producer_ids) WITH ORDINALITY u(topic, pid, ord)
          LEFT JOIN mq_producer_id p ON p.topic_id = u.topic AND p.producer_id = u.pid AND p.claim <> v_claim
          LEFT JOIN mq_claim c ON c.claim = p.claim) x;
    END IF;
    PERFORM set_config('lock_timeout', v_timeout, true);
  END IF;
  IF p_due IS NULL AND NOT v_old THEN   -- nearly always: all are new and due now
    ids := mq_draw_ids(n);
    INSERT INTO mq_message (topic_id, id, tag, key, skey, headers, body)
      SELECT u.* FROM unnest(p_topics, ids, p_tags, p_keys, p_skeys, p_headers, p_bodies) u;
  ELSE
    IF NOT v_old THEN ids := array_fill(NULL::bigint, ARRAY[n]); END IF;
    FOR i IN 1..n LOOP   -- the delayed ones before the message lock, as everywhere
      IF NOT duplicates[i] AND p_due[i] IS NOT NULL THEN
        ids[i] := nextval('mq_id_seq');
        v_now := v_now - 1;
        INSERT INTO mq_delayed (topic_id, id, deliver_at, tag, key, skey, headers, body)
          VALUES (p_topics[i], ids[i], p_due[i], p_tags[i], p_keys[i], p_skeys[i], p_headers[i], p_bodies[i]);
      END IF;
    END LOOP;
    IF v_now > 0 THEN
      v_drawn := mq_draw_ids(v_now);
      FOR i IN 1..n LOOP
        IF ids[i] IS NULL THEN k := k + 1; ids[i] := v_drawn[k]; END IF;
      END LOOP;
      INSERT INTO mq_message (topic_id, id, tag, key, skey, headers, body)
        SELECT u.topic, u.id, u.tag, u.key, u.skey, u.headers, u.body
          FROM unnest(p_topics, ids, p_tags, p_keys, p_skeys, p_headers, p_bodies, p_due, duplicates) u(topic, id, tag, key, skey, headers, body, due, old)
         WHERE u.due IS NULL AND NOT u.old;
    END IF;
  END IF;
  IF v_claim IS NOT NULL THEN INSERT INTO mq_claim (claim, ids, due) VALUES (v_claim, ids, due); END IF;
END $$;
ALTER FUNCTION mq_send_group SET plan_cache_mode = force_generic_plan;
