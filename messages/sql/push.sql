-- Delivery by webhook: which groups are being delivered, by whom, and how it went. Not locked together with anything: each statement stands alone.

-- Of these groups those that have something to deliver, that nobody delivers, and that are not to be left in peace; the longest unserved first.
CREATE OR REPLACE FUNCTION mq_push_due(p_groups bigint[]) RETURNS SETOF bigint VOLATILE LANGUAGE sql AS $$
  SELECT r.group_id FROM mq_ready(p_groups) r(group_id) JOIN mq_group g USING (group_id) LEFT JOIN mq_push p USING (group_id)
   WHERE NOT g.suspended AND NOT g.retired
     AND (p.group_id IS NULL OR (p.claimed_until <= clock_timestamp() AND p.quiet_until <= clock_timestamp()))
   ORDER BY p.claimed_until NULLS FIRST $$;

-- Take a group for a while: the number of the claim and the misses so far; no row when another has it, or when it is to be left in peace.
CREATE OR REPLACE FUNCTION mq_push_claim(p_group bigint, p_for interval, OUT claim bigint, OUT misses int) RETURNS SETOF record LANGUAGE sql AS $$
  INSERT INTO mq_push AS p (group_id, claim, claimed_until, tried_at)
    VALUES (p_group, nextval('mq_token_seq'), clock_timestamp() + p_for, clock_timestamp())
  ON CONFLICT (group_id) DO UPDATE SET claim = EXCLUDED.claim, claimed_until = EXCLUDED.claimed_until, tried_at = EXCLUDED.tried_at
   WHERE p.claimed_until <= clock_timestamp() AND p.quiet_until <= clock_timestamp()
  RETURNING p.claim, p.misses $$;

-- Write down how it went since the last call and keep the group for a while longer, or give it back (0). False: another has it meanwhile;
-- what was delivered is counted all the same.
CREATE OR REPLACE FUNCTION mq_push_record(p_group bigint, p_claim bigint, p_for interval, p_ok bigint, p_failed bigint, p_error text, p_misses int, p_quiet interval)
RETURNS boolean LANGUAGE sql AS $$
  UPDATE mq_push p
     SET claimed_until = CASE WHEN p.claim = p_claim THEN clock_timestamp() + p_for ELSE p.claimed_until END,
         quiet_until = CASE WHEN p.claim = p_claim AND p_quiet > interval '0' THEN clock_timestamp() + p_quiet ELSE p.quiet_until END,
         misses = CASE WHEN p.claim = p_claim THEN p_misses ELSE p.misses END,
         succeeded_at = CASE WHEN p_ok > 0 THEN clock_timestamp() ELSE p.succeeded_at END,
         failed_at = CASE WHEN p_failed > 0 THEN clock_timestamp() ELSE p.failed_at END,
         delivered = p.delivered + p_ok,
         failed = p.failed + p_failed,
         recent_since = CASE WHEN p.recent_since < clock_timestamp() - interval '1 hour' THEN clock_timestamp() ELSE p.recent_since END,
         recent_ok = CASE WHEN p.recent_since < clock_timestamp() - interval '1 hour' THEN 0 ELSE p.recent_ok END + p_ok,
         recent_failed = CASE WHEN p.recent_since < clock_timestamp() - interval '1 hour' THEN 0 ELSE p.recent_failed END + p_failed,
         error = CASE WHEN p_error IS NULL THEN p.error ELSE p_error END
   WHERE p.group_id = p_group
  RETURNING p.claim = p_claim $$;
