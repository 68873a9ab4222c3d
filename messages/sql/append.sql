-- Send: claims of producers' ids and the append functions.

-- Claims for the messages that bring an id of their own. The ids come sorted by their characters' numbers (COLLATE "C"), each with its place
-- in the batch: two producers that retry the same batch must not deadlock. BEFORE the message lock: waiting for another sender must not
-- hold up the horizon. Returns the claim and, as the ids came, the first result of each that is a repetition.
CREATE OR REPLACE FUNCTION mq_claim_ids(p_topic bigint, p_producer_ids text[], p_places int[], OUT claim bigint, OUT prior_ids bigint[], OUT prior_due timestamptz[])
LANGUAGE plpgsql AS $$
BEGIN
  claim := nextval('mq_claim_seq');
  BEGIN   -- nearly always all are new, and a plain INSERT costs a third of one that expects conflicts
    INSERT INTO mq_producer_id (topic_id, producer_id, claim, ord) SELECT p_topic, u.pid, claim, u.ord FROM unnest(p_producer_ids, p_places) u(pid, ord);
    RETURN;
  EXCEPTION WHEN unique_violation THEN NULL;
  END;
  INSERT INTO mq_producer_id (topic_id, producer_id, claim, ord) SELECT p_topic, u.pid, claim, u.ord FROM unnest(p_producer_ids, p_places) u(pid, ord)
    ON CONFLICT DO NOTHING;
  -- a new statement sees what the other sender has committed meanwhile
  SELECT array_agg(x.id ORDER BY x.nr), array_agg(x.due ORDER BY x.nr) INTO prior_ids, prior_due FROM (
    SELECT u.nr, coalesce(c.ids[p.ord], c.first_id + p.ord - 1) AS id, c.due[p.ord] AS due
      FROM unnest(p_producer_ids) WITH ORDINALITY u(pid, nr)
      LEFT JOIN mq_producer_id p ON p.topic_id = p_topic AND p.producer_id = u.pid AND p.claim <> mq_claim_ids.claim
      LEFT JOIN mq_claim c ON c.claim = p.claim) x;
END $$;

-- The same as web processes of before migration 0034 call it, which run on until they are restarted: by place, NULL where a message has no id.
CREATE OR REPLACE FUNCTION mq_claim_ids(p_topic bigint, p_producer_ids text[], OUT claim bigint, OUT prior_ids bigint[], OUT prior_due timestamptz[])
LANGUAGE plpgsql AS $$
DECLARE v_ids text[]; v_places int[]; c record;
BEGIN
  SELECT array_agg(u.pid ORDER BY u.pid COLLATE "C"), array_agg(u.ord::int ORDER BY u.pid COLLATE "C") INTO v_ids, v_places
    FROM unnest(p_producer_ids) WITH ORDINALITY u(pid, ord) WHERE u.pid IS NOT NULL;
  c := mq_claim_ids(p_topic, v_ids, v_places);
  claim := c.claim;
  IF c.prior_ids IS NULL THEN RETURN; END IF;
  SELECT array_agg(x.id ORDER BY u.ord), array_agg(x.due ORDER BY u.ord) INTO prior_ids, prior_due
    FROM generate_subscripts(p_producer_ids, 1) u(ord) LEFT JOIN unnest(v_places, c.prior_ids, c.prior_due) x(place, id, due) ON x.place = u.ord;
END $$;

CREATE OR REPLACE FUNCTION mq_record_claim(p_claim bigint, p_ids bigint[], p_due timestamptz[]) RETURNS void LANGUAGE sql AS $$ INSERT INTO mq_claim (claim, ids, due) VALUES (p_claim, p_ids, p_due) $$;

-- THE append: take the lock, draw the ids, insert. Bigger batches draw with mq_draw_ids and COPY the rows themselves.
CREATE OR REPLACE FUNCTION mq_append(p_topic bigint, p_tags text[], p_keys text[], p_skeys text[], p_headers text[], p_bodies bytea[]) RETURNS bigint[] LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE ids bigint[];
BEGIN
  ids := mq_draw_ids(cardinality(p_bodies));
  IF cardinality(p_bodies) = 1 THEN
    INSERT INTO mq_message (topic_id, id, tag, key, skey, headers, body) VALUES (p_topic, ids[1], p_tags[1], p_keys[1], p_skeys[1], p_headers[1], p_bodies[1]);
  ELSE
    INSERT INTO mq_message (topic_id, id, tag, key, skey, headers, body)
      SELECT p_topic, u.* FROM unnest(ids, p_tags, p_keys, p_skeys, p_headers, p_bodies) u;
  END IF;
  RETURN ids;
END $$;

-- The single send, in one round trip and one commit.
CREATE OR REPLACE FUNCTION mq_send_one(p_topic bigint, p_producer_id text, p_due timestamptz, p_tag text, p_key text, p_skey text, p_headers text, p_body bytea,
                            OUT id bigint, OUT due timestamptz, OUT duplicate boolean) LANGUAGE plpgsql AS $$
DECLARE c record; v_ids bigint[];
BEGIN
  duplicate := false;
  due := p_due;
  IF p_producer_id IS NOT NULL THEN
    c := mq_claim_ids(p_topic, ARRAY[p_producer_id], ARRAY[1]);
    IF c.prior_ids[1] IS NOT NULL THEN
      id := c.prior_ids[1]; due := c.prior_due[1]; duplicate := true;
      RETURN;
    END IF;
  END IF;
  IF p_due IS NULL THEN
    v_ids := mq_append(p_topic, ARRAY[p_tag], ARRAY[p_key], ARRAY[p_skey], ARRAY[p_headers], ARRAY[p_body]);
  ELSE
    v_ids := mq_delay(p_topic, ARRAY[p_due], ARRAY[p_tag], ARRAY[p_key], ARRAY[p_skey], ARRAY[p_headers], ARRAY[p_body]);
  END IF;
  id := v_ids[1];
  IF p_producer_id IS NOT NULL THEN
    PERFORM mq_record_claim(c.claim, v_ids, CASE WHEN p_due IS NOT NULL THEN ARRAY[p_due] END);
  END IF;
END $$;

-- Producers' ids older than the time to live. An index that leads to them would cost each send a third of its claim, so their table is walked
-- instead: so many pages a call that a round takes a quarter of that time. What is old when a round begins goes in it, then its claims,
-- without which nobody could say what a repetition repeats. Returns how many rows went; `p_pages` bounds what one call looks at.
CREATE OR REPLACE FUNCTION mq_purge_claims(p_keep interval DEFAULT '1 day', p_pages int DEFAULT 4096) RETURNS int LANGUAGE plpgsql AS $$
DECLARE h mq_purge; v_now timestamptz := clock_timestamp(); v_size bigint; v_step bigint; v_limit int := 4 * p_pages; k int := 0; v_claims int;
BEGIN
  SELECT * INTO h FROM mq_purge FOR NO KEY UPDATE SKIP LOCKED;
  IF NOT FOUND THEN RETURN 0; END IF;
  IF h.page = 0 THEN
    h.below := (SELECT c.claim FROM mq_claim c WHERE c.at < v_now - p_keep ORDER BY c.at DESC LIMIT 1);
    IF h.below IS NULL THEN RETURN 0; END IF;
  END IF;
  IF h.page IS NOT NULL THEN
    v_size := pg_relation_size('mq_producer_id') / current_setting('block_size')::int;
    v_step := ceil(4 * v_size * extract(epoch FROM greatest(v_now - h.at, '0 s')) / extract(epoch FROM greatest(p_keep, '1 s')));
    v_step := least(greatest(v_step, 16), p_pages);
    DELETE FROM mq_producer_id
     WHERE ctid >= format('(%s,0)', h.page)::tid AND ctid < format('(%s,0)', h.page + v_step)::tid AND claim <= h.below;
    GET DIAGNOSTICS k = ROW_COUNT;
    h.page := CASE WHEN h.page + v_step < v_size THEN h.page + v_step END;
  END IF;
  IF h.page IS NULL THEN
    DELETE FROM mq_claim WHERE claim = ANY (ARRAY(
      SELECT c.claim FROM mq_claim c WHERE c.claim <= h.below AND c.at < v_now - p_keep ORDER BY c.claim LIMIT v_limit));
    GET DIAGNOSTICS v_claims = ROW_COUNT;
    k := k + v_claims;
    IF v_claims < v_limit THEN h.page := 0; END IF;
  END IF;
  UPDATE mq_purge SET below = h.below, page = h.page, at = v_now;
  RETURN k;
END $$;

-- As mq_send_one for each, in the order given. No (topic, producer's id) stands twice among them (the service sees to it).
-- Results have the place of their message; a repetition has the id and the due time of the first result.
CREATE OR REPLACE FUNCTION mq_send_group(p_topics bigint[], p_producer_ids text[], p_due timestamptz[], p_tags text[], p_keys text[], p_skeys text[],
                              p_headers text[], p_bodies bytea[], OUT ids bigint[], OUT due timestamptz[], OUT duplicates boolean[]) LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
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
        SELECT u.ord, coalesce(c.ids[p.ord], c.first_id + p.ord - 1) AS id, c.due[p.ord] AS due
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
