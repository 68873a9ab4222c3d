-- A client without ZooKeeper under the id that it chose: sent again it is the same one, after an eviction it is back. No row: another's id.
WITH was AS MATERIALIZED (
    SELECT id, online, applied_generation FROM registry_instance WHERE znode = %(znode)s),
stored AS (
    INSERT INTO registry_instance AS i
           (znode, path, node, ip, role, sdk, app, pid, state, cluster, applied_generation, applied_at, seen_at, error, plain, czxid, mzxid,
            online, first_seen, online_since, offline_at, beat_at)
    VALUES (%(znode)s, %(path)s, %(node)s, %(ip)s, %(role)s, %(sdk)s, %(app)s, %(pid)s, %(state)s, '', %(generation)s,
            CASE WHEN %(generation)s::bigint IS NOT NULL THEN now() END, CASE WHEN %(generation)s::bigint > 0 THEN now() END,
            %(error)s, false, 0, 0, true, now(), now(), NULL, now())
        ON CONFLICT (znode) DO UPDATE
       SET node = excluded.node, ip = excluded.ip, sdk = excluded.sdk, app = excluded.app, pid = excluded.pid, state = excluded.state,
           applied_generation = excluded.applied_generation, applied_at = excluded.applied_at,
           seen_at = CASE WHEN excluded.applied_generation IS DISTINCT FROM i.applied_generation THEN excluded.seen_at ELSE i.seen_at END,
           error = excluded.error, online = true, offline_at = NULL, beat_at = now(),
           online_since = CASE WHEN i.online THEN i.online_since ELSE now() END
     WHERE i.path = excluded.path AND i.role = excluded.role
    RETURNING i.id, i.applied_generation, i.applied_at, i.xmax = 0 AS made),
told AS (
    INSERT INTO registry_instanceevent (instance_id, kind, at, generation, applied_at, detail)
    SELECT s.id, e.kind, now(), s.applied_generation, CASE WHEN e.kind = 'applied' THEN s.applied_at END, ''
      FROM stored s
      LEFT JOIN was ON was.id = s.id
     CROSS JOIN LATERAL (VALUES
           (1, 'online', was.id IS NULL OR NOT was.online),
           (2, 'applied', s.applied_generation > 0 AND s.applied_generation IS DISTINCT FROM was.applied_generation)) AS e(place, kind, happened)
     WHERE e.happened
     ORDER BY e.place)
SELECT made FROM stored
