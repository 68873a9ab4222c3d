-- Half messages: prepared outside the log, where no group sees them, until their producer commits or rolls back. One that it leaves
-- undecided is asked after (check-back) a bounded number of times; then a person decides.

-- Prepare. A producer's id that is known gives the first result back, which may also be a message that was sent at once.
CREATE OR REPLACE FUNCTION mq_half_prepare(p_topic bigint, p_producer_id text, p_due timestamptz, p_check_ms bigint, p_tag text, p_key text, p_skey text,
                                p_headers text, p_body bytea, OUT id bigint, OUT duplicate boolean) LANGUAGE plpgsql AS $$
DECLARE c record;
BEGIN
  duplicate := false;
  IF p_producer_id IS NOT NULL THEN
    c := mq_claim_ids(p_topic, ARRAY[p_producer_id], ARRAY[1]);
    IF c.prior_ids[1] IS NOT NULL THEN
      id := c.prior_ids[1]; duplicate := true;
      RETURN;
    END IF;
  END IF;
  id := nextval('mq_id_seq');   -- as a delayed message: unique among messages, and of no concern to the horizon
  INSERT INTO mq_half (id, topic_id, check_at, check_ms, deliver_at, tag, key, skey, headers, producer_id, body)
    VALUES (mq_half_prepare.id, p_topic, clock_timestamp() + p_check_ms * interval '1 ms', p_check_ms, p_due, p_tag, p_key, p_skey, p_headers, p_producer_id, p_body);
  IF p_producer_id IS NOT NULL THEN PERFORM mq_record_claim(c.claim, ARRAY[id], NULL); END IF;
END $$;

-- Commit or roll back. Who comes second waits for the row and finds it decided; nothing is changed then. Returns the state from now
-- on, and whether this call made it so; no row: there is no such half message.
CREATE OR REPLACE FUNCTION mq_half_decide(p_id bigint, p_commit boolean, p_by text) RETURNS TABLE (state text, changed boolean) LANGUAGE plpgsql AS $$
DECLARE h mq_half; v_new bigint;
BEGIN
  SELECT * INTO h FROM mq_half q WHERE q.id = p_id FOR NO KEY UPDATE;   -- before the message lock, as all rows
  IF NOT FOUND THEN RETURN; END IF;
  IF h.state IN ('C', 'R') THEN
    RETURN QUERY SELECT h.state::text, false;
    RETURN;
  END IF;
  IF p_commit AND h.deliver_at > clock_timestamp() THEN
    INSERT INTO mq_delayed (id, deliver_at, topic_id, tag, key, skey, headers, body)
      VALUES (h.id, h.deliver_at, h.topic_id, h.tag, h.key, h.skey, h.headers, h.body);
  ELSIF p_commit THEN
    v_new := (mq_draw_ids(1))[1];
    INSERT INTO mq_message (topic_id, id, origin_id, tag, key, skey, headers, body)
      VALUES (h.topic_id, v_new, h.id, h.tag, h.key, h.skey, h.headers, h.body);
  END IF;
  UPDATE mq_half q SET state = CASE WHEN p_commit THEN 'C' ELSE 'R' END, message_id = v_new, decided_at = clock_timestamp(), decided_by = p_by,
         error = NULL, body = '' WHERE q.id = p_id;
  RETURN QUERY SELECT CASE WHEN p_commit THEN 'C' ELSE 'R' END, true;
END $$;

-- What a producer asks for: its own half messages that have been open for their time, each at most once in that time, so that several
-- instances of a producer share the work. Undecided ones too: a producer that was away may still decide.
CREATE OR REPLACE FUNCTION mq_half_ask(p_topic bigint, p_most int) RETURNS SETOF bigint LANGUAGE sql AS $$
  UPDATE mq_half h SET asked_at = clock_timestamp() FROM (
    SELECT q.id FROM mq_half q WHERE q.topic_id = p_topic AND q.state IN ('O', 'U')
       AND greatest(q.prepared_at, q.asked_at) <= clock_timestamp() - q.check_ms * interval '1 ms'
     ORDER BY q.id LIMIT p_most FOR NO KEY UPDATE SKIP LOCKED) d
   WHERE h.id = d.id RETURNING h.id $$;

-- The topics that have a check-back due; those whose last one has passed without a decision wait for a person from now on.
CREATE OR REPLACE FUNCTION mq_half_due(p_max int) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
BEGIN
  UPDATE mq_half q SET state = 'U' FROM (
    SELECT x.id FROM mq_half x WHERE x.state = 'O' AND x.check_at <= (SELECT clock_timestamp()) AND x.checks >= p_max
     ORDER BY x.check_at LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED) d WHERE q.id = d.id;
  RETURN QUERY SELECT DISTINCT q.topic_id FROM mq_half q WHERE q.state = 'O' AND q.check_at <= (SELECT clock_timestamp()) AND q.checks < p_max;
END $$;

-- Begin a check-back of what is due in these topics: counted before it is tried, and tried by nobody else for a while. Whoever is
-- killed meanwhile has changed nothing else.
CREATE OR REPLACE FUNCTION mq_half_check(p_topics bigint[], p_max int, p_most int, p_claim interval, p_error text) RETURNS SETOF mq_half LANGUAGE sql AS $$
  UPDATE mq_half h SET checks = h.checks + 1, check_at = clock_timestamp() + greatest(h.check_ms * interval '1 ms', p_claim), error = p_error FROM (
    SELECT q.id FROM mq_half q WHERE q.topic_id = ANY (p_topics) AND q.state = 'O' AND q.check_at <= (SELECT clock_timestamp()) AND q.checks < p_max
     ORDER BY q.check_at LIMIT p_most FOR NO KEY UPDATE SKIP LOCKED) d
   WHERE h.id = d.id RETURNING h.* $$;

-- Forget decided ones after a while, in bounded steps.
CREATE OR REPLACE FUNCTION mq_half_purge(p_keep interval DEFAULT '7 days', p_limit int DEFAULT 1000) RETURNS int LANGUAGE plpgsql AS $$
DECLARE k int;
BEGIN
  DELETE FROM mq_half h USING (SELECT q.id FROM mq_half q WHERE q.state IN ('C', 'R') AND q.decided_at < (SELECT clock_timestamp()) - p_keep
                                ORDER BY q.decided_at LIMIT p_limit FOR UPDATE SKIP LOCKED) d WHERE h.id = d.id;
  GET DIAGNOSTICS k = ROW_COUNT;
  RETURN k;
END $$;
