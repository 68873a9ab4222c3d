-- The history of instances, cut: what is older than so many days, and of each the newest so many only. What it still runs stays known
-- by the instance itself.
DELETE FROM registry_instanceevent
 WHERE id IN (
       SELECT id FROM registry_instanceevent WHERE at < now() - make_interval(days => %(days)s)
       UNION ALL
       SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY instance_id ORDER BY id DESC) AS place FROM registry_instanceevent) AS e
        WHERE place > %(keep)s)
