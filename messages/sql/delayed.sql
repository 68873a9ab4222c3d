-- Delayed messages: kept apart by their due time, promoted into the log, cancelled and moved, one or many.

-- Delayed messages draw from the same sequence, so that their ids are unique among messages; the horizon does not concern them.
CREATE OR REPLACE FUNCTION mq_delay(p_topic bigint, p_due timestamptz[], p_tags text[], p_keys text[], p_skeys text[], p_headers text[], p_bodies bytea[]) RETURNS bigint[]
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
CREATE OR REPLACE FUNCTION mq_promote(p_limit int DEFAULT 2000, p_bytes bigint DEFAULT 33554432) RETURNS int LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
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
CREATE OR REPLACE FUNCTION mq_delayed_cancel(p_id bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE v_topic bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(7310005, hashint8(p_id));
  DELETE FROM mq_delayed WHERE id = p_id RETURNING topic_id INTO v_topic;
  RETURN v_topic;
END $$;

CREATE OR REPLACE FUNCTION mq_delayed_reschedule(p_id bigint, p_due timestamptz) RETURNS timestamptz LANGUAGE plpgsql AS $$
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

-- Cancel those of the messages that are still delayed (p_topics: only in these). The locks of a reschedule (see mq_delayed_cancel) are
-- taken in one order, so that two of these do not wait for each other crosswise. '' or why not, for each.
CREATE OR REPLACE FUNCTION mq_delayed_cancel_many(p_ids bigint[], p_topics bigint[]) RETURNS TABLE (message_id bigint, refusal text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
  PERFORM pg_advisory_xact_lock(7310005, x.h) FROM (SELECT DISTINCT hashint8(u.id) AS h FROM unnest(p_ids) u(id) ORDER BY 1) x;
  RETURN QUERY
    WITH gone AS (DELETE FROM mq_delayed d WHERE d.id = ANY (p_ids) AND (p_topics IS NULL OR d.topic_id = ANY (p_topics)) RETURNING d.id)
    SELECT u.id, CASE WHEN g.id IS NULL THEN 'not_delayed' ELSE '' END FROM unnest(p_ids) u(id) LEFT JOIN gone g ON g.id = u.id;
END $$;

-- Deliver them at another time; NULL: now.
CREATE OR REPLACE FUNCTION mq_delayed_move_many(p_ids bigint[], p_topics bigint[], p_due timestamptz) RETURNS TABLE (message_id bigint, refusal text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE v_due timestamptz := coalesce(p_due, clock_timestamp());
BEGIN
  PERFORM pg_advisory_xact_lock(7310005, x.h) FROM (SELECT DISTINCT hashint8(u.id) AS h FROM unnest(p_ids) u(id) ORDER BY 1) x;
  RETURN QUERY
    WITH gone AS (DELETE FROM mq_delayed d WHERE d.id = ANY (p_ids) AND (p_topics IS NULL OR d.topic_id = ANY (p_topics)) RETURNING d.*),
    back AS (
      INSERT INTO mq_delayed (id, deliver_at, topic_id, sent_at, lane, tag, key, skey, headers, body)
        SELECT g.id, v_due, g.topic_id, g.sent_at, g.lane, g.tag, g.key, g.skey, g.headers, g.body FROM gone g)
    SELECT u.id, CASE WHEN g.id IS NULL THEN 'not_delayed' ELSE '' END FROM unnest(p_ids) u(id) LEFT JOIN gone g ON g.id = u.id;
END $$;

-- How many are due in each hour from p_from on; hours without any are left out. It reads an index, no body.
CREATE OR REPLACE FUNCTION mq_delayed_hours(p_from timestamptz, p_hours int, p_topics bigint[]) RETURNS TABLE (hour timestamptz, messages bigint) STABLE LANGUAGE sql AS $$
  SELECT date_bin('1 hour', d.deliver_at, p_from), count(*) FROM mq_delayed d
   WHERE d.deliver_at >= p_from AND d.deliver_at < p_from + make_interval(hours => p_hours) AND (p_topics IS NULL OR d.topic_id = ANY (p_topics))
   GROUP BY 1 ORDER BY 1 $$;
