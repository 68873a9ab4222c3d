-- A heartbeat; what it leaves out stays, and what is new goes into the history. No row: evicted in the meantime.
WITH was AS MATERIALIZED (
    SELECT id, applied_generation, error FROM registry_instance WHERE znode = %(znode)s),
beaten AS (
    UPDATE registry_instance
       SET beat_at = now(),
           state = coalesce(%(state)s, state),
           error = coalesce(%(error)s, error),
           applied_at = CASE WHEN %(generation)s::bigint IS DISTINCT FROM applied_generation AND %(generation)s::bigint IS NOT NULL
                             THEN now() ELSE applied_at END,
           seen_at = CASE WHEN %(generation)s::bigint IS DISTINCT FROM applied_generation AND %(generation)s::bigint IS NOT NULL
                          THEN now() ELSE seen_at END,
           applied_generation = coalesce(%(generation)s::bigint, applied_generation)
     WHERE znode = %(znode)s AND online
    RETURNING id, applied_generation, applied_at, error),
told AS (
    INSERT INTO registry_instanceevent (instance_id, kind, at, generation, applied_at, detail)
    SELECT b.id, e.kind, now(), b.applied_generation, CASE WHEN e.kind = 'applied' THEN b.applied_at END,
           CASE WHEN e.kind = 'failed' THEN left(b.error, 500) ELSE '' END
      FROM beaten b
      JOIN was ON was.id = b.id
     CROSS JOIN LATERAL (VALUES
           ('applied', b.applied_generation > 0 AND b.applied_generation IS DISTINCT FROM was.applied_generation),
           ('failed', b.error <> '' AND b.error IS DISTINCT FROM was.error)) AS e(kind, happened)
     WHERE e.happened)
SELECT id FROM beaten
