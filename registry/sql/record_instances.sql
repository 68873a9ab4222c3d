-- Instances as they were read; an older reading (smaller mzxid) never overwrites a newer one. A larger czxid is a new incarnation.
-- What is new about them goes into their history. seen_at is when a generation was recorded, and stays while it is the same, as counted_at
-- does, which is when the counts were written, by ZooKeeper's clock.
WITH f AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(%(found)s::jsonb) AS f(
        znode text, path text, node text, ip text, role text, sdk text, app text, pid bigint, state text, cluster text,
        applied_generation bigint, applied_at timestamptz, error text, plain bool, labels jsonb, czxid bigint, mzxid bigint, online_since timestamptz,
        counts jsonb, counted_at timestamptz)),
was AS MATERIALIZED (
    SELECT i.id, i.online, i.czxid, i.applied_generation, i.error FROM registry_instance i JOIN f ON f.znode = i.znode),
stored AS (
    INSERT INTO registry_instance AS i
           (znode, path, node, ip, role, sdk, app, pid, state, cluster, applied_generation, applied_at, seen_at, error, plain, labels, czxid, mzxid,
            online, first_seen, online_since, offline_at, counts, counted_at)
    SELECT f.znode, f.path, f.node, f.ip, f.role, f.sdk, f.app, f.pid, f.state, f.cluster, f.applied_generation, f.applied_at,
           CASE WHEN f.applied_generation > 0 THEN now() END, f.error, f.plain, f.labels, f.czxid, f.mzxid, true, now(), f.online_since,
           NULL, f.counts, f.counted_at
      FROM f
        ON CONFLICT (znode) DO UPDATE
       SET ip = excluded.ip, role = excluded.role, sdk = excluded.sdk, app = excluded.app, pid = excluded.pid, state = excluded.state,
           cluster = excluded.cluster, applied_generation = excluded.applied_generation, applied_at = excluded.applied_at,
           seen_at = CASE WHEN excluded.applied_generation IS DISTINCT FROM i.applied_generation THEN excluded.seen_at ELSE i.seen_at END,
           error = excluded.error, plain = excluded.plain, labels = excluded.labels, czxid = excluded.czxid, mzxid = excluded.mzxid,
           online = true, offline_at = NULL, online_since = excluded.online_since, counts = excluded.counts,
           counted_at = CASE WHEN excluded.counts IS DISTINCT FROM i.counts THEN excluded.counted_at ELSE i.counted_at END
     WHERE excluded.mzxid > i.mzxid
    RETURNING i.id, i.czxid, i.applied_generation, i.applied_at, i.error)
INSERT INTO registry_instanceevent (instance_id, kind, at, generation, applied_at, detail)
SELECT s.id, e.kind, now(), s.applied_generation, CASE WHEN e.kind = 'applied' THEN s.applied_at END,
       CASE WHEN e.kind = 'failed' THEN left(s.error, 500) ELSE '' END
  FROM stored s
  LEFT JOIN was ON was.id = s.id
 CROSS JOIN LATERAL (VALUES
       (1, 'online', was.id IS NULL OR NOT was.online OR was.czxid <> s.czxid),
       (2, 'applied', s.applied_generation > 0 AND s.applied_generation IS DISTINCT FROM was.applied_generation),
       (3, 'failed', s.error <> '' AND s.error IS DISTINCT FROM was.error)) AS e(place, kind, happened)
 WHERE e.happened
 ORDER BY s.id, e.place
