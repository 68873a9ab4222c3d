-- What is not in ZooKeeper yet, by the partial index of due rows; the oldest change that a registrar, and no person, has to see to.
WITH due AS MATERIALIZED (
    SELECT path, changed_at, last_error, published_generation < generation AS dirty, drifted_at,
           held_at IS NOT NULL AND held_at IS NOT DISTINCT FROM drifted_at AS held
      FROM registry_publication
     WHERE published_generation < generation OR drifted_at IS NOT NULL),
late AS (SELECT path, changed_at FROM due WHERE dirty AND NOT held ORDER BY changed_at, path LIMIT 1)
SELECT count(*) FILTER (WHERE dirty AND NOT held),
       count(*) FILTER (WHERE last_error <> '' AND NOT held),
       count(*) FILTER (WHERE drifted_at IS NOT NULL AND NOT held),
       count(*) FILTER (WHERE held),
       coalesce((SELECT greatest(extract(epoch FROM now() - changed_at), 0) FROM late), 0)::float8,
       coalesce((SELECT path FROM late), ''),
       (SELECT changed_at FROM late)
  FROM due
