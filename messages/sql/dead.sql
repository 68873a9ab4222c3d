-- Dead letters by their causes, and the purge.

-- A reason without what differs from message to message: each number, id or time becomes #. One plain pattern, since it is applied to
-- tens of thousands of reasons at once; letters a to f before a digit go with it, as they may be the beginning of an id.
CREATE OR REPLACE FUNCTION mq_reason(p_error text) RETURNS text IMMUTABLE PARALLEL SAFE LANGUAGE sql AS $$ SELECT btrim(regexp_replace(left(coalesce(p_error, ''), 300), '[a-fA-F-]*[0-9][0-9a-fA-Fx.,:-]*', '#', 'g')) COLLATE "C" $$;

-- The newest p_most dead letters of a group by their causes, in one walk over the index of dead letters; no message is looked at. Equal
-- reasons are put together before the pattern is applied: most dead letters of a group have died of the same few.
CREATE OR REPLACE FUNCTION mq_dead_causes(p_group bigint, p_most int) RETURNS TABLE (cause text, example text, messages bigint, oldest timestamptz, newest timestamptz,
    in_hour bigint, in_day bigint, in_week bigint) STABLE LANGUAGE sql AS $$
  SELECT mq_reason(y.error), min(y.error), sum(y.n)::bigint, min(y.oldest), max(y.newest), sum(y.in_hour)::bigint, sum(y.in_day)::bigint, sum(y.in_week)::bigint
    FROM (SELECT x.error, count(*) AS n, min(x.last_at) AS oldest, max(x.last_at) AS newest,
                 count(*) FILTER (WHERE x.last_at > now() - interval '1 hour') AS in_hour, count(*) FILTER (WHERE x.last_at > now() - interval '1 day') AS in_day,
                 count(*) FILTER (WHERE x.last_at > now() - interval '7 days') AS in_week
            FROM (SELECT left(coalesce(e.error, ''), 300) COLLATE "C" AS error, e.last_at FROM mq_exception e
                   WHERE e.group_id = p_group AND e.status = 'D' ORDER BY e.msg_id DESC LIMIT p_most) x
           GROUP BY 1) y
   GROUP BY 1 ORDER BY 3 DESC, 1 $$;

-- Purge: dead letters that nobody wants any more become failed, not succeeded, with the reason. '' or why not, for each.
CREATE OR REPLACE FUNCTION mq_purge_dead(p_group bigint, p_ids bigint[], p_reason text) RETURNS TABLE (message_id bigint, refusal text) LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
  PERFORM mq_lock_group(p_group);
  RETURN QUERY
    WITH gone AS (
      UPDATE mq_exception e SET status = 'F', due_at = NULL, last_at = clock_timestamp(), error = coalesce(e.error || '; ', '') || 'purged: ' || p_reason
       WHERE e.group_id = p_group AND e.msg_id = ANY (p_ids) AND e.status = 'D' RETURNING e.msg_id, e.topic_id),
    counted AS (
      UPDATE mq_cursor c SET dead = c.dead - x.n, failed = c.failed + x.n FROM (SELECT topic_id, count(*) AS n FROM gone GROUP BY 1) x
       WHERE c.group_id = p_group AND c.topic_id = x.topic_id)
    SELECT u.id, CASE WHEN g.msg_id IS NULL THEN 'not_dead' ELSE '' END FROM unnest(p_ids) u(id) LEFT JOIN gone g ON g.msg_id = u.id;
END $$;
