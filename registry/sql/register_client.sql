-- A client without ZooKeeper under the id that it chose: sent again it is the same one, after an eviction it is back. No row: another's id.
INSERT INTO registry_instance AS i
       (znode, path, node, ip, role, sdk, app, pid, state, cluster, applied_generation, applied_at, error, plain, czxid, mzxid,
        online, first_seen, online_since, offline_at, beat_at)
VALUES (%(znode)s, %(path)s, %(node)s, %(ip)s, %(role)s, %(sdk)s, %(app)s, %(pid)s, %(state)s, '', %(generation)s,
        CASE WHEN %(generation)s::bigint IS NOT NULL THEN now() END, %(error)s, false, 0, 0, true, now(), now(), NULL, now())
    ON CONFLICT (znode) DO UPDATE
   SET node = excluded.node, ip = excluded.ip, sdk = excluded.sdk, app = excluded.app, pid = excluded.pid, state = excluded.state,
       applied_generation = excluded.applied_generation, applied_at = excluded.applied_at, error = excluded.error,
       online = true, offline_at = NULL, beat_at = now(),
       online_since = CASE WHEN i.online THEN i.online_since ELSE now() END
 WHERE i.path = excluded.path AND i.role = excluded.role
RETURNING xmax = 0
