-- The registrar's work: dirty or drifted rows whose turn it is and whose order across paths allows it now.
-- With `ids` of these only.
-- `fresh` rows are a few moments old: the registrar that prefers their path takes them first.
-- The columns are those of due.Due, in its order.
SELECT p.id, p.path, p.data, p.requires, p.deleted, p.generation, p.node_version, p.drifted_at, p.attempts,
       p.changed_at <= now() AND p.changed_at > now() - interval '300 milliseconds' AND p.drifted_at IS NULL AS fresh
  FROM registry_publication p
 WHERE (p.published_generation < p.generation OR p.drifted_at IS NOT NULL)
   AND p.next_attempt_at <= now()
   -- what waits for a person is looked at again only when its node was marked anew
   AND p.held_at IS DISTINCT FROM coalesce(p.drifted_at, '-infinity')
   AND (%(ids)s::bigint[] IS NULL OR p.id = ANY (%(ids)s::bigint[]))
   AND CASE WHEN p.deleted
            -- retiring: what depends on the path goes first
            THEN NOT EXISTS (SELECT 1 FROM registry_publication d
                              WHERE d.requires @> ARRAY[p.path]
                                AND NOT (d.deleted AND d.published_generation = d.generation))
            -- publishing: what the path requires stands first, in its last generation; changed by others and waiting for a person, it does
            ELSE NOT EXISTS (SELECT 1 FROM unnest(p.requires) AS r(path)
                               LEFT JOIN registry_publication q ON q.path = r.path
                              WHERE q.id IS NULL OR q.deleted OR q.published_generation < q.generation
                                 OR (q.drifted_at IS NOT NULL AND (q.held_at IS DISTINCT FROM q.drifted_at OR q.last_foreign_edit = 'deleted')))
       END
 ORDER BY p.changed_at, p.id
 LIMIT %(limit)s
