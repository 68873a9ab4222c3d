-- Of each path the last entries stay; what is not settled stays anyway.
DELETE FROM registry_drift d
 USING (SELECT id, row_number() OVER (PARTITION BY path ORDER BY id DESC) AS rank
          FROM registry_drift
         WHERE path IN (SELECT path FROM registry_drift GROUP BY path HAVING count(*) > %(keep)s)) AS old
 WHERE d.id = old.id AND old.rank > %(keep)s AND d.settled_at IS NOT NULL
