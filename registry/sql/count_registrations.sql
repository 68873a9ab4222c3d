-- Who is registered with these services now, which are locked; that one went online or offline goes into its history.
WITH counted AS (
    SELECT s.id, s.online AS was, s.leader <> '' AS led,
           count(r.id) FILTER (WHERE r.kind IN ('provider', 'host', 'instance')) AS providers,
           count(r.id) FILTER (WHERE r.kind = 'consumer') AS consumers
      FROM registry_service s
      LEFT JOIN registry_registration r ON r.service_id = s.id AND r.online
     WHERE s.id = ANY(%(ids)s)
     GROUP BY s.id),
now_are AS (
    UPDATE registry_service s
       SET providers = c.providers, consumers = c.consumers, online = c.providers > 0 OR c.led,
           online_since = CASE WHEN NOT c.was AND (c.providers > 0 OR c.led) THEN now() ELSE s.online_since END,
           offline_at = CASE WHEN c.was AND c.providers = 0 AND NOT c.led THEN now() ELSE s.offline_at END
      FROM counted c
     WHERE s.id = c.id AND (s.providers, s.consumers, s.online) IS DISTINCT FROM (c.providers, c.consumers, c.providers > 0 OR c.led)
    RETURNING s.id, s.online, c.was)
INSERT INTO registry_serviceevent (service_id, kind, at, member, app, name, session, departure)
SELECT id, CASE WHEN online THEN 'online' ELSE 'offline' END, now(), '', '', '', '', ''
  FROM now_are
 WHERE online <> was
 ORDER BY id
