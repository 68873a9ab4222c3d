-- Old releases of paths that have newer ones enough. Each candidate asks the index on (publication, generation) for the last to be kept.
DELETE FROM registry_release
 WHERE id IN (SELECT r.id
                FROM registry_release r
               WHERE r.created_at < now() - make_interval(days => %(days)s)
                 AND r.generation < (SELECT l.generation
                                       FROM registry_release l
                                      WHERE l.publication_id = r.publication_id
                                      ORDER BY l.generation DESC
                                     OFFSET %(last)s - 1 LIMIT 1)
               ORDER BY r.created_at
               LIMIT %(limit)s)
