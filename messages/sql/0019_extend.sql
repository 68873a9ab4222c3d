-- Extend the lease: a worker that needs longer keeps what it holds, fresh and retried messages alike. Never shorter than before, and no
-- longer than p_longest since the pull: a worker that hangs and still extends must not keep its messages for ever. NULL until and no
-- refusal: the lease has ended, or never was, or is another group's.
CREATE FUNCTION mq_extend(p_group bigint, p_token bigint, p_visibility interval, p_longest interval, p_async boolean,
                          OUT until timestamptz, OUT refused boolean) LANGUAGE plpgsql AS $$
DECLARE v_now timestamptz; v_pulled timestamptz; v_until timestamptz;
BEGIN
  refused := false;
  PERFORM FROM mq_group q WHERE q.group_id = p_group FOR NO KEY UPDATE;
  v_now := clock_timestamp();   -- after the wait for the lock
  SELECT min(x.pulled_at), max(x.lease_until) INTO v_pulled, v_until FROM (
    SELECT l.pulled_at, l.lease_until FROM mq_lease l WHERE l.group_id = p_group AND l.token = p_token AND l.lease_until > v_now
    UNION ALL
    SELECT e.pulled_at, e.lease_until FROM mq_exception e
     WHERE e.group_id = p_group AND e.token = p_token AND e.status = 'P' AND e.lease_until > v_now) x;
  IF v_until IS NULL THEN RETURN; END IF;
  IF v_now + p_visibility > v_pulled + p_longest THEN
    refused := true;
    until := v_until;
    RETURN;
  END IF;
  until := greatest(v_until, v_now + p_visibility);
  IF until = v_until THEN RETURN; END IF;
  IF p_async THEN PERFORM set_config('synchronous_commit', 'off', true); END IF;   -- losing it only redelivers
  UPDATE mq_lease l SET lease_until = until WHERE l.group_id = p_group AND l.token = p_token AND l.lease_until > v_now;
  UPDATE mq_exception e SET lease_until = until WHERE e.group_id = p_group AND e.token = p_token AND e.status = 'P' AND e.lease_until > v_now;
END $$;
ALTER FUNCTION mq_extend SET plan_cache_mode = force_generic_plan;
