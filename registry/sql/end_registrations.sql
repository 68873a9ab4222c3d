-- Registrations whose nodes are gone, with how each left as far as it is known: of nodes that are not our SDK's, nobody can tell. An
-- incarnation that came after the reading stays. Each is one line of its service's history, whichever registrar is first.
WITH g AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(%(gone)s::jsonb) AS g(key text, departure text)),
ended AS (
    UPDATE registry_registration r
       SET online = false, offline_at = now(), departure = CASE WHEN r.polite AND r.session <> '' THEN g.departure ELSE 'unknown' END
      FROM g
     WHERE r.key = g.key AND r.online AND r.czxid <= %(zxid)s
    RETURNING r.id, r.service_id, r.kind, r.app, r.address, r.name, r.session, r.departure)
INSERT INTO registry_serviceevent (service_id, kind, at, member, app, name, session, departure)
SELECT e.service_id, 'left', now(), e.kind, e.app, left(coalesce(nullif(e.address, ''), e.name), 500), e.session, e.departure
  FROM ended e
 ORDER BY e.id
