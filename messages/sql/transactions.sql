-- Transactions: sends to several topics and outcomes of leases in one commit, under a producer's epoch and an id of its own.

-- Open a producer's next epoch. Waits for the transactions of the one before that are under way; from its commit on they are refused.
CREATE OR REPLACE FUNCTION mq_epoch_open(p_application bigint, p_name text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE v_epoch bigint;
BEGIN
  -- the row first: of two that open at once the later one must get the larger number
  INSERT INTO mq_producer (application_id, name, epoch) VALUES (p_application, p_name, 0) ON CONFLICT DO NOTHING;
  PERFORM FROM mq_producer p WHERE p.application_id = p_application AND p.name = p_name FOR NO KEY UPDATE;
  UPDATE mq_producer p SET epoch = nextval('mq_epoch_seq'), opened_at = clock_timestamp()
   WHERE p.application_id = p_application AND p.name = p_name RETURNING p.epoch INTO v_epoch;
  RETURN v_epoch;
END $$;

-- Begin a transaction: the producer's row (shared), then its id, then the groups' rows in their order, before anything else is locked.
-- Returns the producer's epoch (NULL: there is no such producer); of a repetition the first result and what it was asked for. One whose
-- first try is under way waits for it. Nothing is done when the epoch is another one.
CREATE OR REPLACE FUNCTION mq_transaction_begin(p_application bigint, p_producer text, p_epoch bigint, p_id text, p_digest bytea, p_groups bigint[],
                                     OUT epoch bigint, OUT result text, OUT digest bytea) LANGUAGE plpgsql AS $$
DECLARE v_new int;
BEGIN
  SELECT p.epoch INTO mq_transaction_begin.epoch FROM mq_producer p WHERE p.application_id = p_application AND p.name = p_producer FOR SHARE;
  IF mq_transaction_begin.epoch IS DISTINCT FROM p_epoch THEN RETURN; END IF;
  INSERT INTO mq_transaction (application_id, producer, epoch, id, digest) VALUES (p_application, p_producer, p_epoch, p_id, p_digest) ON CONFLICT DO NOTHING;
  GET DIAGNOSTICS v_new = ROW_COUNT;
  IF v_new = 0 THEN   -- a new statement sees what the other one has committed meanwhile
    SELECT t.result, t.digest INTO mq_transaction_begin.result, mq_transaction_begin.digest FROM mq_transaction t
     WHERE t.application_id = p_application AND t.producer = p_producer AND t.id = p_id;
    RETURN;
  END IF;
  PERFORM FROM mq_group g WHERE g.group_id = ANY (p_groups) ORDER BY g.group_id FOR NO KEY UPDATE;
END $$;

-- The last step: the messages of all topics that are due now, then the result. The ids stand in the order of the messages.
CREATE OR REPLACE FUNCTION mq_transaction_append(p_topics bigint[], p_tags text[], p_keys text[], p_skeys text[], p_headers text[], p_bodies bytea[]) RETURNS bigint[]
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE ids bigint[] := mq_draw_ids(cardinality(p_bodies));
BEGIN
  INSERT INTO mq_message (topic_id, id, tag, key, skey, headers, body)
    SELECT u.* FROM unnest(p_topics, ids, p_tags, p_keys, p_skeys, p_headers, p_bodies) u;
  RETURN ids;
END $$;

-- Forget transactions after their time to live, as producers' ids.
CREATE OR REPLACE FUNCTION mq_transaction_purge(p_keep interval DEFAULT '1 day', p_limit int DEFAULT 1000) RETURNS int LANGUAGE plpgsql AS $$
DECLARE k int;
BEGIN
  DELETE FROM mq_transaction t USING (SELECT q.application_id, q.producer, q.id FROM mq_transaction q WHERE q.at < (SELECT clock_timestamp()) - p_keep
                                       ORDER BY q.at LIMIT p_limit FOR UPDATE SKIP LOCKED) d
   WHERE t.application_id = d.application_id AND t.producer = d.producer AND t.id = d.id;
  GET DIAGNOSTICS k = ROW_COUNT;
  RETURN k;
END $$;
