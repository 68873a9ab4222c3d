-- A heartbeat; what it leaves out stays. No row: evicted in the meantime.
UPDATE registry_instance
   SET beat_at = now(),
       state = coalesce(%(state)s, state),
       error = coalesce(%(error)s, error),
       applied_at = CASE WHEN %(generation)s::bigint IS DISTINCT FROM applied_generation AND %(generation)s::bigint IS NOT NULL
                         THEN now() ELSE applied_at END,
       applied_generation = coalesce(%(generation)s::bigint, applied_generation)
 WHERE znode = %(znode)s AND online
RETURNING id
