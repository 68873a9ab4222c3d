-- Retiring a topic closes it in the store, whether it has subscribers or not: its delayed messages, which would be promoted into a log
-- that nobody reads, are cancelled. Returns how many.
DROP FUNCTION mq_topic_retire(bigint);
CREATE FUNCTION mq_topic_retire(p_topic bigint) RETURNS bigint LANGUAGE plpgsql AS $$
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
