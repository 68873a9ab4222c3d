-- A release of each of these publications at the generation that it has now. What a retired path held last stands in the one before.
INSERT INTO registry_release (publication_id, generation, kind, author_id, author_name, message, change, format, deleted, data)
SELECT id, generation, %(kind)s, %(author)s, %(author_name)s, %(message)s, %(change)s, format, deleted,
       CASE WHEN deleted THEN ''::bytea ELSE data END
  FROM registry_publication
 WHERE path = ANY (%(paths)s::text[])
 ORDER BY path
