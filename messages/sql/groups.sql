-- Groups, subscriptions, ceilings. Called by clusters/drivers/builtin.py inside the transaction of whoever changes the group's metadata.

CREATE OR REPLACE FUNCTION mq_group_put(p_group bigint, p_max_attempts int, p_backoff_ms bigint[], p_suspended boolean) RETURNS void LANGUAGE sql AS $$
  INSERT INTO mq_group (group_id, max_attempts, backoff_ms, suspended) VALUES (p_group, p_max_attempts, p_backoff_ms, p_suspended)
  ON CONFLICT (group_id) DO UPDATE SET max_attempts = EXCLUDED.max_attempts, backoff_ms = EXCLUDED.backoff_ms, suspended = EXCLUDED.suspended $$;

CREATE OR REPLACE FUNCTION mq_lock_group(p_group bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM mq_group WHERE group_id = p_group FOR NO KEY UPDATE;
  IF NOT FOUND THEN RAISE EXCEPTION 'group % is not in the message store', p_group USING ERRCODE = 'no_data_found'; END IF;
END $$;

-- Subscribe, or change the filter of a running subscription (what has been handed out keeps the filter it was handed out under).
CREATE OR REPLACE FUNCTION mq_subscribe(p_group bigint, p_topic bigint, p_tags text[], p_latest boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE c mq_cursor; s mq_span; v_latest bigint; v_skip bigint;
BEGIN
  PERFORM mq_lock_group(p_group);
  INSERT INTO mq_topic (topic_id) VALUES (p_topic) ON CONFLICT DO NOTHING;
  UPDATE mq_topic SET retired = false WHERE topic_id = p_topic AND retired;
  SELECT last_value INTO v_latest FROM mq_id_seq;   -- ids drawn from now on are above it, whether closed or not
  SELECT * INTO c FROM mq_cursor WHERE group_id = p_group AND topic_id = p_topic;
  IF c.group_id IS NULL THEN
    INSERT INTO mq_cursor (group_id, topic_id, pos, tags) VALUES (p_group, p_topic, CASE WHEN p_latest THEN v_latest ELSE 0 END, p_tags);
    IF p_latest THEN INSERT INTO mq_span (group_id, topic_id, lo, hi, kind) VALUES (p_group, p_topic, 0, v_latest, 'N'); END IF;
    INSERT INTO mq_span (group_id, topic_id, lo, kind, filter_no, tags) VALUES (p_group, p_topic, CASE WHEN p_latest THEN v_latest ELSE 0 END, 'D', 1, p_tags);
    RETURN;
  END IF;
  IF c.active THEN
    IF c.tags IS NOT DISTINCT FROM p_tags THEN RETURN; END IF;
    UPDATE mq_span SET hi = c.pos WHERE group_id = p_group AND topic_id = p_topic AND hi IS NULL;
  ELSIF p_latest THEN   -- away for a while: (pos, unsubscribed at] stays skipped, what came meanwhile was not subscribed
    UPDATE mq_span SET hi = v_latest WHERE group_id = p_group AND topic_id = p_topic AND hi IS NULL;
    SELECT coalesce(sum(mq_count(p_topic, x.lo, x.hi, x.tags)), 0) INTO v_skip FROM mq_span x
     WHERE x.group_id = p_group AND x.topic_id = p_topic AND x.kind = 'K' AND x.lo >= c.pos;
    c.pos := v_latest;
  ELSE                  -- goes on where it stood
    DELETE FROM mq_span WHERE group_id = p_group AND topic_id = p_topic AND lo >= c.pos;
  END IF;
  DELETE FROM mq_span WHERE group_id = p_group AND topic_id = p_topic AND hi <= lo;   -- nothing happened in it
  UPDATE mq_cursor SET active = true, pos = c.pos, tags = p_tags, filter_no = filter_no + 1, skipped = skipped + coalesce(v_skip, 0)
   WHERE group_id = p_group AND topic_id = p_topic;
  INSERT INTO mq_span (group_id, topic_id, lo, kind, filter_no, tags) VALUES (p_group, p_topic, c.pos, 'D', c.filter_no + 1, p_tags);
END $$;

-- Unsubscribe: what waits is skipped, what was to be retried is given up (F); what is in a worker's hands may still be settled.
CREATE OR REPLACE FUNCTION mq_unsubscribe(p_group bigint, p_topic bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE c mq_cursor; v_latest bigint; k bigint; v_held bigint;
BEGIN
  PERFORM mq_lock_group(p_group);
  SELECT * INTO c FROM mq_cursor WHERE group_id = p_group AND topic_id = p_topic AND active;
  IF NOT FOUND THEN RETURN; END IF;
  SELECT last_value INTO v_latest FROM mq_id_seq;
  UPDATE mq_span SET hi = c.pos WHERE group_id = p_group AND topic_id = p_topic AND hi IS NULL;
  DELETE FROM mq_span WHERE group_id = p_group AND topic_id = p_topic AND hi <= lo;
  IF v_latest > c.pos THEN
    INSERT INTO mq_span (group_id, topic_id, lo, hi, kind, filter_no, tags) VALUES (p_group, p_topic, c.pos, v_latest, 'K', c.filter_no, c.tags);
  END IF;
  INSERT INTO mq_span (group_id, topic_id, lo, kind) VALUES (p_group, p_topic, greatest(v_latest, c.pos), 'N');
  SELECT held INTO v_held FROM mq_cursor WHERE group_id = p_group AND topic_id = p_topic;
  UPDATE mq_exception SET status = 'F', due_at = NULL, last_at = clock_timestamp(), error = coalesce(error || '; ', '') || 'unsubscribed'
   WHERE group_id = p_group AND topic_id = p_topic AND status IN ('L', 'B');
  GET DIAGNOSTICS k = ROW_COUNT;
  UPDATE mq_cursor SET active = false, later = later - (k - v_held), held = 0, failed = failed + k WHERE group_id = p_group AND topic_id = p_topic;
END $$;

CREATE OR REPLACE FUNCTION mq_group_retire(p_group bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE t bigint;
BEGIN
  PERFORM mq_lock_group(p_group);
  FOR t IN SELECT topic_id FROM mq_cursor WHERE group_id = p_group AND active ORDER BY topic_id LOOP PERFORM mq_unsubscribe(p_group, t); END LOOP;
  UPDATE mq_group SET retired = true WHERE group_id = p_group;
END $$;

-- Retiring a topic closes it in the store, whether it has subscribers or not: its delayed messages, which would be promoted into a log
-- that nobody reads, are cancelled. Returns how many.
CREATE OR REPLACE FUNCTION mq_topic_retire(p_topic bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE g bigint; n bigint; v_cancelled bigint := 0;
BEGIN
  FOR g IN SELECT group_id FROM mq_cursor WHERE topic_id = p_topic AND active ORDER BY group_id LOOP PERFORM mq_unsubscribe(g, p_topic); END LOOP;
  LOOP   -- one that is being rescheduled is in another row when the wait for it ends
    DELETE FROM mq_delayed WHERE topic_id = p_topic;
    GET DIAGNOSTICS n = ROW_COUNT;
    v_cancelled := v_cancelled + n;
    EXIT WHEN NOT EXISTS (SELECT FROM mq_delayed WHERE topic_id = p_topic);
  END LOOP;
  INSERT INTO mq_topic (topic_id, retired) VALUES (p_topic, true) ON CONFLICT (topic_id) DO UPDATE SET retired = true;
  RETURN v_cancelled;
END $$;

-- A new span has the era of its position, whichever verb makes it.
CREATE OR REPLACE FUNCTION mq_span_era() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.era IS NULL THEN
    NEW.era := coalesce((SELECT c.era FROM mq_cursor c WHERE c.group_id = NEW.group_id AND c.topic_id = NEW.topic_id), 0);
  END IF;
  RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION mq_group_ceiling(p_group bigint, p_max_outstanding int) RETURNS void LANGUAGE sql AS $$
  UPDATE mq_group SET max_outstanding = p_max_outstanding WHERE group_id = p_group $$;

-- Whichever verb subscribes: the cursor knows its topic's order, and its group that it has the cursor (see mq_cursors), and one with an order.
CREATE OR REPLACE FUNCTION mq_cursor_made() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.ordering := coalesce((SELECT t.ordering FROM mq_topic t WHERE t.topic_id = NEW.topic_id), 0);
  UPDATE mq_group g SET topics = g.topics || NEW.topic_id, ordered = g.ordered OR NEW.ordering > 0 WHERE g.group_id = NEW.group_id;
  RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER era BEFORE INSERT ON mq_span FOR EACH ROW EXECUTE FUNCTION mq_span_era();
CREATE OR REPLACE TRIGGER made BEFORE INSERT ON mq_cursor FOR EACH ROW EXECUTE FUNCTION mq_cursor_made();
