-- Registrations as they were read; an older reading (smaller mzxid) never overwrites a newer one. One that was gone, or is new, goes into the
-- history of its service; one that was registered anew, or taken over by another session, was there all the time.
WITH f AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(%(found)s::jsonb) AS f(
        service_id bigint, kind text, key text, znode text, name text, app text, address text, service_version text, service_group text,
        pid bigint, sdk text, polite bool, session text, czxid bigint, mzxid bigint, since bigint)),
was AS MATERIALIZED (
    SELECT r.key, r.online FROM registry_registration r JOIN f ON f.key = r.key),
stored AS (
    INSERT INTO registry_registration AS r
           (service_id, kind, key, znode, name, app, address, service_version, service_group, pid, sdk, polite, session, czxid, mzxid,
            online, departure, first_seen, online_since, offline_at)
    SELECT f.service_id, f.kind, f.key, f.znode, f.name, f.app, f.address, f.service_version, f.service_group, f.pid, f.sdk, f.polite,
           f.session, f.czxid, f.mzxid, true, '', now(), to_timestamp(f.since / 1000.0), NULL
      FROM f
        ON CONFLICT (key) DO UPDATE
       SET app = excluded.app, address = excluded.address, service_version = excluded.service_version, service_group = excluded.service_group,
           pid = excluded.pid, sdk = excluded.sdk, polite = excluded.polite, session = excluded.session, czxid = excluded.czxid, mzxid = excluded.mzxid,
           online = true, departure = '', online_since = excluded.online_since, offline_at = NULL
     WHERE excluded.mzxid > r.mzxid
    RETURNING r.id, r.key, r.service_id, r.kind, r.app, r.address, r.name, r.session)
INSERT INTO registry_serviceevent (service_id, kind, at, member, app, name, session, departure)
SELECT s.service_id, 'registered', now(), s.kind, s.app, left(coalesce(nullif(s.address, ''), s.name), 500), s.session, ''
  FROM stored s
  LEFT JOIN was ON was.key = s.key
 WHERE was.key IS NULL OR NOT was.online
 ORDER BY s.id
