-- As before, but equal reasons are put together before the pattern is applied: most dead letters of a group have died of the same few.
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
