-- Of each of these sessions a few other nodes that were there when last seen: whether one still is tells whether the session goes on.
WITH g AS MATERIALIZED (SELECT unnest(%(gone)s::text[]) AS key)
SELECT w.znode
  FROM unnest(%(sessions)s::text[]) AS s(session)
 CROSS JOIN LATERAL (
       SELECT r.znode FROM registry_registration r
        WHERE r.online AND r.session = s.session AND r.key NOT IN (SELECT key FROM g)
        LIMIT %(most)s) AS w
