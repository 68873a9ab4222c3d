-- Rows whose node differs, unless something was published since the row was read. A row that is marked already is marked anew: a repair
-- that is being recorded just now clears only the mark that it has seen. Locked in the order of their paths, as everywhere.
WITH mine AS MATERIALIZED (
    SELECT p.id FROM registry_publication p
      JOIN unnest(%(ids)s::bigint[], %(generations)s::bigint[], %(published)s::bigint[]) AS s(id, generation, published) ON s.id = p.id
     WHERE p.generation = s.generation AND p.published_generation = s.published
     ORDER BY p.path FOR NO KEY UPDATE OF p)
UPDATE registry_publication p SET drifted_at = now() FROM mine WHERE p.id = mine.id
