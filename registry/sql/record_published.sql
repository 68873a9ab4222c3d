-- What was written to ZooKeeper, recorded unless a later generation has been recorded already. No lock was held meanwhile.
UPDATE registry_publication p
   SET published_generation = w.generation,
       node_version = w.version,
       published_digest = w.digest,
       published_at = CASE WHEN w.written THEN now() ELSE coalesce(p.published_at, now()) END,
       published_by = CASE WHEN w.written THEN %(by)s ELSE coalesce(nullif(p.published_by, ''), %(by)s) END,
       last_attempt_at = now(),
       last_error = '',
       attempts = 0,
       -- a drift that was seen since the node was read is not the one that was dealt with
       drifted_at = CASE WHEN p.generation = w.generation AND p.drifted_at IS NOT DISTINCT FROM w.drifted_at THEN NULL ELSE p.drifted_at END
  FROM unnest(%(ids)s::bigint[], %(generations)s::bigint[], %(versions)s::int[], %(digests)s::text[], %(written)s::bool[],
              %(drifted)s::timestamptz[])
       AS w(id, generation, version, digest, written, drifted_at)
 WHERE p.id = w.id
   AND p.published_generation <= w.generation
   AND p.generation >= w.generation
