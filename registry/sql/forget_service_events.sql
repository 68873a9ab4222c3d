-- The history of services, cut: what is older than so many days, and of each the newest so many only.
DELETE FROM registry_serviceevent
 WHERE id IN (
       SELECT id FROM registry_serviceevent WHERE at < now() - make_interval(days => %(days)s)
       UNION ALL
       SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY service_id ORDER BY id DESC) AS place FROM registry_serviceevent) AS e
        WHERE place > %(keep)s)
