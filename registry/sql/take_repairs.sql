-- Edits by others: each is noted on its row, one repair is taken from the path's budget, and the rows that may be written come back.
-- A node that merely stood there before our first publication (counts: false) is no fight. The rest waits until the window is over.
WITH seen AS (
    SELECT * FROM unnest(%(ids)s::bigint[], %(edits)s::text[], %(counts)s::bool[]) AS s(id, edit, counts)),
mine AS MATERIALIZED (
    SELECT p.id, p.repairs_since > now() - %(window)s::interval AS running,
           s.edit, s.counts, s.counts AND p.repairs >= %(budget)s AND p.repairs_since > now() - %(window)s::interval AS used_up
      FROM registry_publication p JOIN seen s ON s.id = p.id
     ORDER BY p.path FOR NO KEY UPDATE OF p)
UPDATE registry_publication p
   SET last_foreign_edit = m.edit,
       last_foreign_edit_at = now(),
       repairs = CASE WHEN NOT m.counts OR m.used_up IS TRUE THEN p.repairs WHEN m.running THEN p.repairs + 1 ELSE 1 END,
       repairs_since = CASE WHEN NOT m.counts OR m.running THEN p.repairs_since ELSE now() END,
       last_error = CASE WHEN m.used_up THEN %(error)s ELSE p.last_error END,
       last_attempt_at = CASE WHEN m.used_up THEN now() ELSE p.last_attempt_at END,
       next_attempt_at = CASE WHEN m.used_up THEN p.repairs_since + %(window)s::interval ELSE p.next_attempt_at END
  FROM mine m
 WHERE p.id = m.id
RETURNING p.id, coalesce(m.used_up, false)
