-- Broadcast groups: every instance gets every message. Each instance is a group of the store of its own, with an id below zero, so that all
-- verbs, counts and proofs hold for it unchanged; the group itself has no cursors, it only says what its instances go by.

-- The instances of a group in the order in which they are locked; none of a group that is not a broadcast one.
CREATE OR REPLACE FUNCTION mq_instances(p_group bigint) RETURNS SETOF bigint STABLE LANGUAGE sql AS $$
  SELECT i.instance_id FROM mq_instance i WHERE i.group_id = p_group AND i.gone_at IS NULL ORDER BY 1 $$;

-- Groups with the instances of those that are broadcast ones: what counts, lag and totals are summed over.
CREATE OR REPLACE FUNCTION mq_members(p_groups bigint[]) RETURNS bigint[] STABLE LANGUAGE sql AS $$
  SELECT p_groups || ARRAY(SELECT i.instance_id FROM unnest(p_groups) g(id) JOIN mq_instance i ON i.group_id = g.id AND i.gone_at IS NULL) $$;

CREATE OR REPLACE FUNCTION mq_lock_instances(p_group bigint) RETURNS void LANGUAGE sql AS $$
  SELECT count(*) FROM (SELECT FROM mq_group g WHERE g.group_id IN (SELECT mq_instances(p_group)) ORDER BY g.group_id FOR NO KEY UPDATE) x $$;

-- Make a group a broadcast one, or change what it says of its instances.
CREATE OR REPLACE FUNCTION mq_broadcast_put(p_group bigint, p_ttl interval, p_latest boolean) RETURNS void LANGUAGE sql AS $$
  INSERT INTO mq_broadcast (group_id, ttl, latest) VALUES (p_group, p_ttl, p_latest)
  ON CONFLICT (group_id) DO UPDATE SET ttl = EXCLUDED.ttl, latest = EXCLUDED.latest $$;

-- All instances go by what their group goes by: attempts, backoff, suspension, ceiling. With the group's row locked.
CREATE OR REPLACE FUNCTION mq_instances_follow(p_group bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM mq_lock_instances(p_group);
  UPDATE mq_group i SET max_attempts = g.max_attempts, backoff_ms = g.backoff_ms, suspended = g.suspended, max_outstanding = g.max_outstanding
    FROM mq_group g WHERE g.group_id = p_group AND i.group_id IN (SELECT mq_instances(p_group));
END $$;

-- An instance is there: its id, made at its first time, beginning where the group says. problem: unknown, retired, not_broadcast, full.
CREATE OR REPLACE FUNCTION mq_join(p_group bigint, p_name text, p_most int, p_async boolean, OUT instance_id bigint, OUT problem text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE g mq_group; b mq_broadcast; t record; v_id bigint;
BEGIN
  UPDATE mq_instance i SET seen_at = clock_timestamp() WHERE i.group_id = p_group AND i.name = p_name AND i.gone_at IS NULL
    RETURNING i.instance_id INTO mq_join.instance_id;
  IF mq_join.instance_id IS NOT NULL THEN
    IF p_async THEN PERFORM set_config('synchronous_commit', 'off', true); END IF;   -- a crash of the server may forget when it was seen, not that it began
    RETURN;
  END IF;
  SELECT * INTO g FROM mq_group q WHERE q.group_id = p_group FOR NO KEY UPDATE;
  SELECT * INTO b FROM mq_broadcast q WHERE q.group_id = p_group;
  problem := CASE WHEN g.group_id IS NULL THEN 'unknown' WHEN g.retired THEN 'retired' WHEN b.group_id IS NULL THEN 'not_broadcast' END;
  IF problem IS NOT NULL THEN RETURN; END IF;
  -- under the lock: another process may have been first with the same name
  SELECT i.instance_id INTO mq_join.instance_id FROM mq_instance i WHERE i.group_id = p_group AND i.name = p_name AND i.gone_at IS NULL;
  IF mq_join.instance_id IS NOT NULL THEN RETURN; END IF;
  IF (SELECT count(*) FROM mq_instances(p_group)) >= p_most THEN problem := 'full'; RETURN; END IF;
  v_id := -nextval('mq_instance_seq');
  INSERT INTO mq_group (group_id, max_attempts, backoff_ms, suspended, max_outstanding)
    VALUES (v_id, g.max_attempts, g.backoff_ms, g.suspended, g.max_outstanding);
  INSERT INTO mq_instance (instance_id, group_id, name) VALUES (v_id, p_group, p_name);
  FOR t IN SELECT q.topic_id, q.tags FROM mq_broadcast_topic q WHERE q.group_id = p_group ORDER BY q.topic_id LOOP
    PERFORM mq_subscribe(v_id, t.topic_id, t.tags, b.latest);
    PERFORM mq_limit_begin(v_id, t.topic_id);
  END LOOP;
  mq_join.instance_id := v_id;
END $$;

-- Subscribe a group, or change its filter; of a broadcast group all instances at once, and those to come.
CREATE OR REPLACE FUNCTION mq_group_subscribe(p_group bigint, p_topic bigint, p_tags text[], p_latest boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM mq_lock_group(p_group);
  IF NOT EXISTS (SELECT FROM mq_broadcast b WHERE b.group_id = p_group) THEN
    PERFORM mq_retention_hold(p_topic);
    PERFORM mq_retention_pass(p_group, p_topic);   -- a new filter begins behind what is gone
    PERFORM mq_subscribe(p_group, p_topic, p_tags, p_latest);
    PERFORM mq_limit_begin(p_group, p_topic);
    RETURN;
  END IF;
  INSERT INTO mq_broadcast_topic (group_id, topic_id, tags) VALUES (p_group, p_topic, p_tags)
    ON CONFLICT (group_id, topic_id) DO UPDATE SET tags = EXCLUDED.tags;
  PERFORM mq_lock_instances(p_group);
  PERFORM mq_retention_hold(p_topic);
  PERFORM mq_retention_pass(i, p_topic) FROM mq_instances(p_group) i;
  PERFORM mq_subscribe(i, p_topic, p_tags, p_latest) FROM mq_instances(p_group) i;
  PERFORM mq_limit_begin(i, p_topic) FROM mq_instances(p_group) i;
END $$;

CREATE OR REPLACE FUNCTION mq_group_unsubscribe(p_group bigint, p_topic bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM mq_lock_group(p_group);
  DELETE FROM mq_broadcast_topic b WHERE b.group_id = p_group AND b.topic_id = p_topic;
  PERFORM mq_unsubscribe(m, p_topic) FROM (SELECT p_group UNION ALL SELECT mq_instances(p_group)) x(m);
  PERFORM mq_unsubscribe(p.group_id, p.topic_id) FROM mq_private p
    WHERE p.of_topic_id = p_topic AND (p.group_id = p_group OR p.group_id IN (SELECT mq_instances(p_group)));
END $$;

-- Before a topic is retired: no instance to come subscribes to it. The groups' rows in their order, before those of any instance.
CREATE OR REPLACE FUNCTION mq_broadcast_leave_topic(p_topic bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM mq_group g WHERE g.group_id IN (SELECT b.group_id FROM mq_broadcast_topic b WHERE b.topic_id = p_topic) ORDER BY g.group_id FOR NO KEY UPDATE;
  DELETE FROM mq_broadcast_topic b WHERE b.topic_id = p_topic;
END $$;

-- Give an instance up, if it has not been seen since a time (NULL: whatever it does): it gets nothing more and holds nothing up.
-- What is in its hands may be settled until its rows go.
CREATE OR REPLACE FUNCTION mq_instance_give_up(p_instance bigint, p_unseen_since timestamptz) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM mq_instance i WHERE i.instance_id = p_instance AND i.gone_at IS NULL AND (p_unseen_since IS NULL OR i.seen_at < p_unseen_since) FOR UPDATE;
  IF NOT FOUND THEN RETURN false; END IF;
  PERFORM mq_lock_group(p_instance);
  UPDATE mq_instance i SET gone_at = clock_timestamp() WHERE i.instance_id = p_instance;
  UPDATE mq_cursor c SET active = false WHERE c.group_id = p_instance;
  UPDATE mq_group g SET retired = true WHERE g.group_id = p_instance;
  RETURN true;
END $$;

-- Retire a group, with all its instances.
CREATE OR REPLACE FUNCTION mq_group_end(p_group bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM mq_group_retire(p_group);
  DELETE FROM mq_broadcast_topic b WHERE b.group_id = p_group;
  PERFORM mq_instance_give_up(i, NULL) FROM mq_instances(p_group) i;
END $$;

-- The rows of instances that were given up, p_limit at a time; call again until 0. The group's row is locked and the leases go first, so
-- nothing comes after what is deleted. History goes with its partitions: without a cursor nobody looks at it.
CREATE OR REPLACE FUNCTION mq_forget_instances(p_limit int DEFAULT 5000) RETURNS int LANGUAGE plpgsql AS $$
DECLARE v_id bigint; k int;
BEGIN
  SELECT i.instance_id INTO v_id FROM mq_instance i WHERE i.gone_at IS NOT NULL ORDER BY i.gone_at LIMIT 1 FOR UPDATE SKIP LOCKED;
  IF v_id IS NULL THEN RETURN 0; END IF;
  PERFORM mq_lock_group(v_id);
  DELETE FROM mq_lease l WHERE l.group_id = v_id AND l.token IN (SELECT x.token FROM mq_lease x WHERE x.group_id = v_id LIMIT p_limit);
  GET DIAGNOSTICS k = ROW_COUNT;
  IF k > 0 THEN RETURN k; END IF;
  DELETE FROM mq_exception e WHERE e.group_id = v_id AND e.msg_id IN (SELECT x.msg_id FROM mq_exception x WHERE x.group_id = v_id LIMIT p_limit);
  GET DIAGNOSTICS k = ROW_COUNT;
  IF k > 0 THEN RETURN k; END IF;
  DELETE FROM mq_undo_exception e WHERE e.group_id = v_id
     AND (e.topic_id, e.msg_id) IN (SELECT x.topic_id, x.msg_id FROM mq_undo_exception x WHERE x.group_id = v_id LIMIT p_limit);
  GET DIAGNOSTICS k = ROW_COUNT;
  IF k > 0 THEN RETURN k; END IF;
  DELETE FROM mq_redriven r WHERE r.id IN (SELECT x.id FROM mq_redriven x WHERE x.group_id = v_id LIMIT p_limit);
  GET DIAGNOSTICS k = ROW_COUNT;
  IF k > 0 THEN RETURN k; END IF;
  DELETE FROM mq_undo u WHERE u.group_id = v_id;
  DELETE FROM mq_span s WHERE s.group_id = v_id;
  UPDATE mq_topic t SET retired = true WHERE t.topic_id IN (SELECT p.topic_id FROM mq_private p WHERE p.group_id = v_id);
  DELETE FROM mq_private p WHERE p.group_id = v_id;
  DELETE FROM mq_cursor c WHERE c.group_id = v_id;
  DELETE FROM mq_group g WHERE g.group_id = v_id;
  DELETE FROM mq_instance i WHERE i.instance_id = v_id;
  RETURN 1;
END $$;

-- Where one instance goes: a target before what is kept, or has not expired, is the oldest that is, or where it stands if that is before.
CREATE OR REPLACE FUNCTION mq_instance_target(p_instance bigint, p_topic bigint, p_target bigint) RETURNS bigint STABLE LANGUAGE sql AS $$
  SELECT greatest(p_target, least(mq_first_position(p_topic), (SELECT c.pos FROM mq_cursor c WHERE c.group_id = p_instance AND c.topic_id = p_topic))) $$;

CREATE OR REPLACE FUNCTION mq_group_reset_plan(p_group bigint, p_topic bigint, p_target bigint) RETURNS mq_plan STABLE LANGUAGE plpgsql AS $$
DECLARE i bigint; p mq_plan; s mq_plan; v_all text := '';
BEGIN
  IF NOT EXISTS (SELECT FROM mq_broadcast b WHERE b.group_id = p_group) THEN RETURN mq_reset_plan(p_group, p_topic, p_target); END IF;
  s.done := false; s.repeated := 0; s.first_time := 0; s.passed := 0; s.processing := 0; s.succeeded := 0; s.later := 0; s.dead := 0; s.failed := 0; s.skipped := 0;
  s.problem := CASE WHEN (SELECT g.retired FROM mq_group g WHERE g.group_id = p_group) THEN 'retired'
                    WHEN NOT EXISTS (SELECT FROM mq_broadcast_topic b WHERE b.group_id = p_group AND b.topic_id = p_topic) THEN 'not_subscribed'
                    ELSE 'no_instances' END;
  IF s.problem <> 'no_instances' THEN RETURN s; END IF;
  FOR i IN SELECT mq_instances(p_group) LOOP
    p := mq_reset_plan(i, p_topic, mq_instance_target(i, p_topic, p_target));
    s.problem := p.problem;
    IF p.problem IS NOT NULL THEN RETURN s; END IF;
    s.pos := greatest(s.pos, p.pos);
    s.repeated := s.repeated + p.repeated; s.first_time := s.first_time + p.first_time; s.passed := s.passed + p.passed;
    s.processing := s.processing + p.processing; s.succeeded := s.succeeded + p.succeeded; s.later := s.later + p.later;
    s.dead := s.dead + p.dead; s.failed := s.failed + p.failed; s.skipped := s.skipped + p.skipped;
    v_all := v_all || i || p.fingerprint;
  END LOOP;
  s.target := p_target;
  s.fingerprint := md5(v_all);
  RETURN s;
END $$;

CREATE OR REPLACE FUNCTION mq_group_reset(p_group bigint, p_topic bigint, p_target bigint, p_fingerprint text, OUT plan mq_plan, OUT eras jsonb) LANGUAGE plpgsql AS $$
DECLARE i bigint; p mq_plan; v_target bigint;
BEGIN
  PERFORM FROM mq_group q WHERE q.group_id = p_group FOR NO KEY UPDATE;
  IF NOT EXISTS (SELECT FROM mq_broadcast b WHERE b.group_id = p_group) THEN plan := mq_reset(p_group, p_topic, p_target, p_fingerprint); RETURN; END IF;
  PERFORM mq_lock_instances(p_group);
  PERFORM mq_retention_hold(p_topic);
  plan := mq_group_reset_plan(p_group, p_topic, p_target);
  IF plan.problem IS NOT NULL OR plan.fingerprint IS DISTINCT FROM p_fingerprint THEN RETURN; END IF;
  eras := '{}';
  FOR i IN SELECT mq_instances(p_group) LOOP
    v_target := mq_instance_target(i, p_topic, p_target);
    p := mq_reset_plan(i, p_topic, v_target);
    p := mq_reset(i, p_topic, v_target, p.fingerprint);
    IF p.done THEN eras := eras || jsonb_build_object(i::text, p.era); END IF;
  END LOOP;
  plan.done := eras <> '{}';
  plan.era := 0;
END $$;

-- An instance that has gone beyond what it repeats, or was given up, has nothing left to take back; the others have.
CREATE OR REPLACE FUNCTION mq_group_reset_undo(p_group bigint, p_topic bigint, p_era int, p_eras jsonb, p_most bigint, OUT problem text, OUT restored bigint) LANGUAGE plpgsql AS $$
DECLARE e record; u record; v_left boolean := true;
BEGIN
  IF p_eras IS NULL THEN
    SELECT x.problem, x.restored INTO mq_group_reset_undo.problem, mq_group_reset_undo.restored FROM mq_reset_undo(p_group, p_topic, p_era, p_most) x;
    RETURN;
  END IF;
  PERFORM FROM mq_group q WHERE q.group_id = p_group FOR NO KEY UPDATE;
  PERFORM mq_lock_instances(p_group);
  restored := 0;
  FOR e IN SELECT i.instance_id, p_eras ->> i.instance_id::text AS era FROM mq_instance i
            WHERE i.group_id = p_group AND i.gone_at IS NULL AND p_eras ? i.instance_id::text ORDER BY 1 LOOP
    SELECT * INTO u FROM mq_reset_undo(e.instance_id, p_topic, e.era::int, p_most);
    IF u.problem IS NULL THEN
      v_left := false;
      restored := restored + u.restored;
    ELSIF u.problem <> 'nothing_left' THEN
      problem := u.problem;
      RETURN;
    END IF;
  END LOOP;
  IF v_left THEN problem := 'nothing_left'; END IF;
END $$;
