-- Edits by others under the policy `alert`: nothing is written at these paths until a person decides. A row whose node was marked again
-- since it was read is not held: it is looked at once more.
WITH seen AS (
    SELECT * FROM unnest(%(ids)s::bigint[], %(edits)s::text[], %(drifted)s::timestamptz[]) AS s(id, edit, drifted_at)),
mine AS MATERIALIZED (
    SELECT p.id, s.edit FROM registry_publication p JOIN seen s ON s.id = p.id
     WHERE p.drifted_at IS NOT DISTINCT FROM s.drifted_at
     ORDER BY p.path FOR NO KEY UPDATE OF p)
UPDATE registry_publication p
   SET drifted_at = coalesce(p.drifted_at, now()),
       held_at = coalesce(p.drifted_at, now()),
       overrules = '',
       last_foreign_edit = m.edit,
       last_foreign_edit_at = CASE WHEN p.held_at IS NULL OR p.drifted_at IS NULL THEN now() ELSE p.last_foreign_edit_at END,
       last_error = '',
       attempts = 0
  FROM mine m
 WHERE p.id = m.id
