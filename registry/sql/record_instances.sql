-- Instances as they were read; an older reading (smaller mzxid) never overwrites a newer one. A larger czxid is a new incarnation.
INSERT INTO registry_instance AS i
       (znode, path, node, ip, role, sdk, app, pid, state, cluster, applied_generation, applied_at, error, plain, labels, czxid, mzxid,
        online, first_seen, online_since, offline_at)
SELECT f.znode, f.path, f.node, f.ip, f.role, f.sdk, f.app, f.pid, f.state, f.cluster, f.applied_generation, f.applied_at, f.error,
       f.plain, f.labels, f.czxid, f.mzxid, true, now(), f.online_since, NULL
  FROM jsonb_to_recordset(%(found)s::jsonb) AS f(
       znode text, path text, node text, ip text, role text, sdk text, app text, pid bigint, state text, cluster text,
       applied_generation bigint, applied_at timestamptz, error text, plain bool, labels jsonb, czxid bigint, mzxid bigint, online_since timestamptz)
    ON CONFLICT (znode) DO UPDATE
   SET ip = excluded.ip, role = excluded.role, sdk = excluded.sdk, app = excluded.app, pid = excluded.pid, state = excluded.state,
       cluster = excluded.cluster, applied_generation = excluded.applied_generation, applied_at = excluded.applied_at,
       error = excluded.error, plain = excluded.plain, labels = excluded.labels, czxid = excluded.czxid, mzxid = excluded.mzxid,
       online = true, offline_at = NULL, online_since = excluded.online_since
 WHERE excluded.mzxid > i.mzxid
