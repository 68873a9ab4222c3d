-- New content of publications, each with its next generation; a registrar compares the times with the same clock.
UPDATE registry_publication p
   SET generation = w.generation,
       data = w.data,
       format = w.format,
       root = w.root,
       requires = ARRAY(SELECT jsonb_array_elements_text(w.requires)),
       deleted = false,
       changed_at = statement_timestamp(),
       next_attempt_at = statement_timestamp(),
       attempts = 0,
       last_error = ''
  FROM unnest(%(ids)s::bigint[], %(generations)s::bigint[], %(data)s::bytea[], %(formats)s::text[], %(roots)s::text[], %(requires)s::jsonb[])
       AS w(id, generation, data, format, root, requires)
 WHERE p.id = w.id
RETURNING p.id, p.changed_at, p.next_attempt_at
