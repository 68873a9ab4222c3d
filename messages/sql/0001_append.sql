-- Send: claims of producers' ids, the append function, delayed messages and their promotion.

-- Claims for the messages that bring an id of their own, in sorted order (two producers that retry the same batch must not
-- deadlock) and BEFORE the message lock (waiting for another sender must not hold up the horizon). Returns the claim and, per
-- message, the first result when the id is a repetition.
CREATE FUNCTION mq_claim_ids(p_topic bigint, p_producer_ids text[], OUT claim bigint, OUT prior_ids bigint[], OUT prior_due timestamptz[])
LANGUAGE plpgsql AS $$
BEGIN
  claim := nextval('mq_claim_seq');
  BEGIN   -- nearly always all are new, and a plain INSERT costs a third of one that expects conflicts
    INSERT INTO mq_producer_id (topic_id, producer_id, claim, ord)
      SELECT p_topic, u.pid, claim, u.ord FROM unnest(p_producer_ids) WITH ORDINALITY u(pid, ord) WHERE u.pid IS NOT NULL ORDER BY u.pid COLLATE "C";
    RETURN;
  EXCEPTION WHEN unique_violation THEN NULL;
  END;
  INSERT INTO mq_producer_id (topic_id, producer_id, claim, ord)
    SELECT p_topic, u.pid, claim, u.ord FROM unnest(p_producer_ids) WITH ORDINALITY u(pid, ord) WHERE u.pid IS NOT NULL ORDER BY u.pid COLLATE "C"
    ON CONFLICT DO NOTHING;
  -- a new statement sees what the other sender has committed meanwhile
  SELECT array_agg(x.id ORDER BY x.ord), array_agg(x.due ORDER BY x.ord) INTO prior_ids, prior_due FROM (
    SELECT u.ord, c.ids[p.ord] AS id, c.due[p.ord] AS due
      FROM unnest(p_producer_ids) WITH ORDINALITY u(pid, ord)
      LEFT JOIN mq_producer_id p ON p.topic_id = p_topic AND p.producer_id = u.pid AND p.claim <> mq_claim_ids.claim
      LEFT JOIN mq_claim c ON c.claim = p.claim) x;
END $$;

-- The ids of a batch whose messages are all new and due now: place in the claim = place in the batch.
CREATE FUNCTION mq_draw_ids(p_n int, p_claim bigint) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE ids bigint[] := mq_draw_ids(p_n);
BEGIN
  IF p_claim IS NOT NULL THEN INSERT INTO mq_claim (claim, ids) VALUES (p_claim, ids); END IF;
  RETURN ids;
END $$;

CREATE FUNCTION mq_record_claim(p_claim bigint, p_ids bigint[], p_due timestamptz[]) RETURNS void LANGUAGE sql AS
$$ INSERT INTO mq_claim (claim, ids, due) VALUES (p_claim, p_ids, p_due) $$;

-- THE append: take the lock, draw the ids, insert. Bigger batches draw with mq_draw_ids and COPY the rows themselves.
CREATE FUNCTION mq_append(p_topic bigint, p_tags text[], p_keys text[], p_skeys text[], p_headers text[], p_bodies bytea[]) RETURNS bigint[] LANGUAGE plpgsql AS $$
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

-- Delayed messages draw from the same sequence, so that their ids are unique among messages; the horizon does not concern them.
CREATE FUNCTION mq_delay(p_topic bigint, p_due timestamptz[], p_tags text[], p_keys text[], p_skeys text[], p_headers text[], p_bodies bytea[]) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE ids bigint[];
BEGIN
  ids := ARRAY(SELECT nextval('mq_id_seq') FROM generate_series(1, cardinality(p_bodies)));
  INSERT INTO mq_delayed (topic_id, id, deliver_at, tag, key, skey, headers, body)
    SELECT p_topic, u.* FROM unnest(ids, p_due, p_tags, p_keys, p_skeys, p_headers, p_bodies) u;
  RETURN ids;
END $$;

-- One step of the promoter: what is due moves to the log, oldest first, one promoter at a time. The rows are locked before the
-- message lock is taken (a cancel in flight must not hold up the horizon) and skipped when somebody cancels or reschedules them.
CREATE FUNCTION mq_promote(p_limit int DEFAULT 2000, p_bytes bigint DEFAULT 33554432) RETURNS int LANGUAGE plpgsql AS $$
DECLARE v_ids bigint[]; v_due timestamptz[]; v_new bigint[]; k int;
BEGIN
  IF NOT pg_try_advisory_xact_lock(7310003) THEN RETURN 0; END IF;
  -- bounded in bytes, too: senders wait for the lock of the log while large bodies are copied
  SELECT array_agg(x.id ORDER BY x.deliver_at, x.id), array_agg(x.deliver_at ORDER BY x.deliver_at, x.id) INTO v_ids, v_due FROM (
    SELECT y.id, y.deliver_at, sum(y.len) OVER (ORDER BY y.deliver_at, y.id) - y.len AS before FROM (
      SELECT d.id, d.deliver_at, octet_length(d.body) AS len FROM mq_delayed d
       WHERE d.deliver_at <= now() ORDER BY d.deliver_at, d.id LIMIT p_limit FOR UPDATE SKIP LOCKED) y) x
   WHERE x.before < p_bytes;
  IF v_ids IS NULL THEN RETURN 0; END IF;
  v_new := mq_draw_ids(cardinality(v_ids));
  -- the range of deliver_at prunes partitions; the join finds the rows by their index
  WITH gone AS (DELETE FROM mq_delayed d USING unnest(v_ids, v_due, v_new) u(id, due, new_id)
                 WHERE d.deliver_at = u.due AND d.id = u.id AND d.deliver_at BETWEEN v_due[1] AND v_due[cardinality(v_due)]
                 RETURNING u.new_id, d.*)
  INSERT INTO mq_message (topic_id, id, origin_id, lane, tag, key, skey, headers, body)
    SELECT topic_id, new_id, id, lane, tag, key, skey, headers, body FROM gone ORDER BY new_id;
  GET DIAGNOSTICS k = ROW_COUNT;
  RETURN k;
END $$;

-- Cancel and reschedule of one message take an advisory lock on its id: a reschedule moves the row to another partition, which
-- a concurrent statement that waits for the row would take for an error. NULL: not (or no longer) delayed.
CREATE FUNCTION mq_delayed_cancel(p_id bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE v_topic bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(7310005, hashint8(p_id));
  DELETE FROM mq_delayed WHERE id = p_id RETURNING topic_id INTO v_topic;
  RETURN v_topic;
END $$;

CREATE FUNCTION mq_delayed_reschedule(p_id bigint, p_due timestamptz) RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE v_before timestamptz; d mq_delayed;
BEGIN
  PERFORM pg_advisory_xact_lock(7310005, hashint8(p_id));
  DELETE FROM mq_delayed WHERE id = p_id RETURNING * INTO d;
  IF d.id IS NULL THEN RETURN NULL; END IF;
  v_before := d.deliver_at;
  d.deliver_at := p_due;
  INSERT INTO mq_delayed SELECT d.*;
  RETURN v_before;
END $$;

-- The single send, in one round trip and one commit.
CREATE FUNCTION mq_send_one(p_topic bigint, p_producer_id text, p_due timestamptz, p_tag text, p_key text, p_skey text, p_headers text, p_body bytea,
                            OUT id bigint, OUT due timestamptz, OUT duplicate boolean) LANGUAGE plpgsql AS $$
DECLARE c record; v_ids bigint[];
BEGIN
  duplicate := false;
  due := p_due;
  IF p_producer_id IS NOT NULL THEN
    c := mq_claim_ids(p_topic, ARRAY[p_producer_id]);
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

-- Producers' ids older than the time to live, in bounded steps.
CREATE FUNCTION mq_purge_claims(p_keep interval DEFAULT '1 day', p_limit int DEFAULT 20000) RETURNS int LANGUAGE plpgsql AS $$
DECLARE v_claims bigint[]; k int;
BEGIN
  v_claims := ARRAY(SELECT claim FROM mq_claim WHERE at < clock_timestamp() - p_keep ORDER BY at LIMIT p_limit / 100 FOR UPDATE SKIP LOCKED);
  DELETE FROM mq_producer_id WHERE claim = ANY (v_claims);
  DELETE FROM mq_claim WHERE claim = ANY (v_claims);
  GET DIAGNOSTICS k = ROW_COUNT;
  RETURN k;
END $$;
