-- What was written to ZooKeeper, recorded unless a later generation has been recorded already. No lock was held meanwhile.
-- The rows are locked in the order of their paths, as a change of a cluster locks them: it must not be the victim of a deadlock.
WITH mine AS MATERIALIZED (
    SELECT id FROM registry_publication WHERE id = ANY (%(ids)s::bigint[]) ORDER BY path FOR NO KEY UPDATE),
recorded AS (
    UPDATE registry_publication p
       SET published_generation = w.generation,
           node_version = w.version,
           published_digest = w.digest,
           -- when this generation came out, whoever wrote it; a repair of the same one does not count
           published_at = CASE WHEN p.published_generation < w.generation THEN now() ELSE coalesce(p.published_at, now()) END,
           published_by = CASE WHEN w.written THEN %(by)s ELSE coalesce(nullif(p.published_by, ''), %(by)s) END,
           last_attempt_at = now(),
           last_error = '',
           attempts = 0,
           overrules = '',
           -- a drift that was seen since the node was read is not the one that was dealt with
           drifted_at = CASE WHEN p.generation = w.generation AND p.drifted_at IS NOT DISTINCT FROM w.drifted_at THEN NULL
                             ELSE p.drifted_at END
      FROM unnest(%(ids)s::bigint[], %(generations)s::bigint[], %(versions)s::int[], %(digests)s::text[], %(written)s::bool[],
                  %(drifted)s::timestamptz[])
           AS w(id, generation, version, digest, written, drifted_at)
      JOIN mine ON mine.id = w.id
     WHERE p.id = w.id
       AND p.published_generation <= w.generation
       AND p.generation >= w.generation
    RETURNING p.id, p.path, p.drifted_at, w.generation),
-- What became of the edits by others: the node is ours again, or for the first time.
settled AS (
    UPDATE registry_drift d
       SET outcome = CASE d.outcome WHEN 'waiting' THEN 'undone' WHEN 'left' THEN 'adopted' ELSE 'repaired' END,
           settled_at = now()
      FROM recorded
     WHERE d.path = recorded.path
       AND d.settled_at IS NULL
       AND recorded.drifted_at IS NULL)
-- The release of that generation has stood in ZooKeeper; when it was first seen there is what counts.
UPDATE registry_release r
   SET published_at = now()
  FROM recorded
 WHERE r.publication_id = recorded.id
   AND r.generation = recorded.generation
   AND r.published_at IS NULL
