-- Registrations that have been gone for so many days, and of each service all but so many that went last.
DELETE FROM registry_registration
 WHERE id IN (
       SELECT id FROM registry_registration WHERE NOT online AND offline_at < now() - make_interval(days => %(days)s)
       UNION ALL
       SELECT id FROM (
              SELECT id, row_number() OVER (PARTITION BY service_id ORDER BY offline_at DESC, id DESC) AS place
                FROM registry_registration WHERE NOT online) AS r
        WHERE place > %(keep)s)
