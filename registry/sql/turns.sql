-- Whose turn it is of a large backlog, oldest change first. Whether the order across paths allows it is asked of each slice when it is read.
SELECT p.id, p.path,
       p.changed_at <= now() AND p.changed_at > now() - interval '300 milliseconds' AND p.drifted_at IS NULL AS fresh
  FROM registry_publication p
 WHERE (p.published_generation < p.generation OR p.drifted_at IS NOT NULL)
   AND p.next_attempt_at <= now()
   AND p.held_at IS DISTINCT FROM coalesce(p.drifted_at, '-infinity')
 ORDER BY p.changed_at, p.id
 LIMIT %(limit)s
