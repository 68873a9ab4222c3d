-- Nodes that a registrar shall look at, and make if they are missing. What waits for a person because it was deleted waits no longer; those
-- paths come back. What was changed by others goes by its tree's policy. Locked in the order of their paths, as everywhere.
WITH mine AS MATERIALIZED (
    SELECT id, held_at IS NOT NULL AND held_at IS NOT DISTINCT FROM drifted_at AS held, last_foreign_edit
      FROM registry_publication WHERE path = ANY (%(paths)s::text[]) AND NOT deleted ORDER BY path FOR NO KEY UPDATE)
UPDATE registry_publication p
   SET drifted_at = now(), held_at = NULL, overrules = %(missing)s, next_attempt_at = now(), attempts = 0, last_error = ''
  FROM mine
 WHERE p.id = mine.id
   AND (NOT mine.held OR mine.last_foreign_edit = 'deleted')
RETURNING p.path
