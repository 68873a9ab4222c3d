-- Many delayed messages at once, and how many are due when.

-- Cancel those of the messages that are still delayed (p_topics: only in these). The locks of a reschedule (see mq_delayed_cancel) are
-- taken in one order, so that two of these do not wait for each other crosswise. '' or why not, for each.
CREATE FUNCTION mq_delayed_cancel_many(p_ids bigint[], p_topics bigint[]) RETURNS TABLE (message_id bigint, refusal text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
  PERFORM pg_advisory_xact_lock(7310005, x.h) FROM (SELECT DISTINCT hashint8(u.id) AS h FROM unnest(p_ids) u(id) ORDER BY 1) x;
  RETURN QUERY
    WITH gone AS (DELETE FROM mq_delayed d WHERE d.id = ANY (p_ids) AND (p_topics IS NULL OR d.topic_id = ANY (p_topics)) RETURNING d.id)
    SELECT u.id, CASE WHEN g.id IS NULL THEN 'not_delayed' ELSE '' END FROM unnest(p_ids) u(id) LEFT JOIN gone g ON g.id = u.id;
END $$;

-- Deliver them at another time; NULL: now.
CREATE FUNCTION mq_delayed_move_many(p_ids bigint[], p_topics bigint[], p_due timestamptz) RETURNS TABLE (message_id bigint, refusal text) LANGUAGE plpgsql AS $$
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
CREATE FUNCTION mq_delayed_hours(p_from timestamptz, p_hours int, p_topics bigint[]) RETURNS TABLE (hour timestamptz, messages bigint) STABLE LANGUAGE sql AS $$
  SELECT date_bin('1 hour', d.deliver_at, p_from), count(*) FROM mq_delayed d
   WHERE d.deliver_at >= p_from AND d.deliver_at < p_from + make_interval(hours => p_hours) AND (p_topics IS NULL OR d.topic_id = ANY (p_topics))
   GROUP BY 1 ORDER BY 1 $$;
