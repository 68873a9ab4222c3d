-- Redrives: dead letters go back to their group, or on to a topic as new messages; for each that went one row of mq_redriven tells where.
-- Each verb takes the group's lock first and judges each message under it, so that it may be killed or run twice.

-- Back to their group with fresh attempts. One row per message: '' or why it was refused.
CREATE OR REPLACE FUNCTION mq_redrive(p_group bigint, p_ids bigint[], p_operation bigint, p_actor bigint) RETURNS TABLE (message_id bigint, refusal text)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE v_keys bigint[] := ARRAY(SELECT e.okey FROM mq_exception e WHERE e.group_id = p_group AND e.msg_id = ANY (p_ids) AND e.okey IS NOT NULL);
BEGIN
  PERFORM mq_lock_group(p_group);
  RETURN QUERY
    WITH judged AS MATERIALIZED (
      SELECT u.id, e.topic_id,
             CASE WHEN e.msg_id IS NULL THEN 'not_dead' WHEN NOT c.active THEN 'not_subscribed' WHEN g.retired THEN 'group_retired' ELSE '' END AS refusal
        FROM unnest(p_ids) u(id) JOIN mq_group g ON g.group_id = p_group
        LEFT JOIN mq_exception e ON e.group_id = p_group AND e.msg_id = u.id AND e.status = 'D'
        LEFT JOIN mq_cursor c ON c.group_id = p_group AND c.topic_id = e.topic_id),
    back AS (
      UPDATE mq_exception e SET status = CASE WHEN e.okey IS NULL THEN 'L' ELSE 'B' END::"char", attempts = 0, single = false, redrives = e.redrives + 1,
             due_at = CASE WHEN e.okey IS NULL THEN clock_timestamp() END, token = NULL
        FROM judged j WHERE e.group_id = p_group AND e.msg_id = j.id AND j.refusal = '' RETURNING e.msg_id, e.topic_id, e.status),
    counted AS (
      UPDATE mq_cursor c SET dead = c.dead - x.n, later = c.later + x.n - x.held, held = c.held + x.held
        FROM (SELECT topic_id, count(*) AS n, count(*) FILTER (WHERE status = 'B') AS held FROM back GROUP BY 1) x
       WHERE c.group_id = p_group AND c.topic_id = x.topic_id),
    kept AS (
      INSERT INTO mq_redriven (group_id, message_id, operation_id, actor_id, watched)
        SELECT p_group, b.msg_id, p_operation, p_actor, p_operation IS NOT NULL FROM back b ORDER BY b.msg_id)
    SELECT j.id, j.refusal FROM judged j;
  IF v_keys <> '{}' THEN PERFORM mq_release(p_group, v_keys, clock_timestamp()); END IF;   -- one whose key is busy has its turn next
END $$;

-- On to a topic: p_topic, or each message's own (of a private one the topic that it is for); only to p_allowed. The copy names its original
-- in its headers; the original is closed as failed. Takes of the messages as many as p_bytes of bodies allow (the last one may go beyond)
-- and returns a row for each of those.
CREATE OR REPLACE FUNCTION mq_redrive_to(p_group bigint, p_name text, p_ids bigint[], p_topic bigint, p_allowed bigint[], p_operation bigint, p_actor bigint,
                              p_bytes bigint DEFAULT 33554432) RETURNS TABLE (message_id bigint, refusal text)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE v_all bigint[]; v_why text[]; v_ids bigint[]; v_from bigint[]; v_to bigint[]; v_new bigint[];
BEGIN
  PERFORM mq_lock_group(p_group);
  SELECT array_agg(x.id ORDER BY x.ord), array_agg(x.refusal ORDER BY x.ord), array_agg(x.id ORDER BY x.ord) FILTER (WHERE x.refusal = ''),
         array_agg(x.topic_id ORDER BY x.ord) FILTER (WHERE x.refusal = ''), array_agg(x.dest ORDER BY x.ord) FILTER (WHERE x.refusal = '')
    INTO v_all, v_why, v_ids, v_from, v_to FROM (
    SELECT y.*, sum(y.len) OVER (ORDER BY y.ord) - y.len AS before FROM (
      SELECT u.ord, u.id, e.topic_id, coalesce(p_topic, p.of_topic_id, e.topic_id) AS dest, coalesce(m.len, 0) AS len,
             CASE WHEN e.msg_id IS NULL THEN 'not_dead' WHEN m.len IS NULL THEN 'message_gone'
                  WHEN coalesce(p_topic, p.of_topic_id, e.topic_id) <> ALL (p_allowed) THEN 'topic_not_active' ELSE '' END AS refusal
        FROM unnest(p_ids) WITH ORDINALITY u(id, ord)
        LEFT JOIN mq_exception e ON e.group_id = p_group AND e.msg_id = u.id AND e.status = 'D'
        LEFT JOIN mq_private p ON p.topic_id = e.topic_id
        LEFT JOIN LATERAL (SELECT octet_length(mm.body) AS len FROM mq_message mm WHERE mm.topic_id = e.topic_id AND mm.id = e.msg_id OFFSET 0) m ON true) y) x
   WHERE x.before < p_bytes;
  IF v_ids IS NOT NULL THEN
    UPDATE mq_exception e SET status = 'F', due_at = NULL, last_at = clock_timestamp(), error = coalesce(e.error || '; ', '') || 'redriven to a topic'
     WHERE e.group_id = p_group AND e.msg_id = ANY (v_ids);
    UPDATE mq_cursor c SET dead = c.dead - x.n, failed = c.failed + x.n FROM (SELECT t.id, count(*) AS n FROM unnest(v_from) t(id) GROUP BY 1) x
     WHERE c.group_id = p_group AND c.topic_id = x.id;
    v_new := mq_draw_ids(cardinality(v_ids));   -- last: from here on the horizon waits for us
    INSERT INTO mq_message (topic_id, id, tag, key, skey, headers, body)
      SELECT u.dest, u.new_id, m.tag, m.key, m.skey,
             (coalesce(m.headers, '{}')::jsonb || jsonb_build_object('mq-redriven-from', u.id::text, 'mq-redriven-group', p_name))::text, m.body
        FROM unnest(v_ids, v_from, v_to, v_new) u(id, topic_id, dest, new_id)
       CROSS JOIN LATERAL (SELECT mm.* FROM mq_message mm WHERE mm.topic_id = u.topic_id AND mm.id = u.id OFFSET 0) m;
    INSERT INTO mq_redriven (group_id, message_id, operation_id, actor_id, watched, new_topic_id, new_id)
      SELECT p_group, u.id, p_operation, p_actor, p_operation IS NOT NULL, u.dest, u.new_id FROM unnest(v_ids, v_to, v_new) u(id, dest, new_id);
  END IF;
  RETURN QUERY SELECT u.id, u.why FROM unnest(v_all, v_why) u(id, why);
END $$;

-- What became of the newest redriven messages of an operation: how many are open (of those how many have failed a try again), succeeded,
-- and failed. A copy is judged in its group, or in all groups of the topic where that group has not subscribed to it. Looks at p_newest.
CREATE OR REPLACE FUNCTION mq_redriven_outcomes(p_operation bigint, p_newest int, OUT open bigint, OUT troubled bigint, OUT succeeded bigint, OUT failed bigint)
STABLE LANGUAGE sql AS $$
  SELECT count(*) FILTER (WHERE o.worst IN (1, 2)), count(*) FILTER (WHERE o.worst = 2), count(*) FILTER (WHERE o.worst = 0), count(*) FILTER (WHERE o.worst = 3)
    FROM (SELECT * FROM mq_redriven r WHERE r.operation_id = p_operation AND r.watched ORDER BY r.id DESC LIMIT p_newest) r
   CROSS JOIN LATERAL (
     SELECT CASE WHEN e.msg_id IS NULL THEN 0 WHEN e.status IN ('D', 'F') THEN 3 WHEN e.attempts > 0 THEN 2 ELSE 1 END AS worst
       FROM (SELECT) x LEFT JOIN mq_exception e ON e.group_id = r.group_id AND e.msg_id = r.message_id WHERE r.new_id IS NULL
     UNION ALL
     SELECT coalesce(max(CASE s.status WHEN 'D' THEN 3 WHEN 'F' THEN 3 WHEN 'L' THEN CASE WHEN s.attempts > 0 THEN 2 ELSE 1 END
                                       WHEN 'P' THEN CASE WHEN s.attempts > 1 THEN 2 ELSE 1 END WHEN 'W' THEN 1 ELSE 0 END), 0)
       FROM mq_status(r.new_topic_id, r.new_id) s JOIN mq_cursor c ON c.group_id = s.group_id AND c.topic_id = r.new_topic_id AND c.active
      WHERE r.new_id IS NOT NULL AND (s.group_id = r.group_id OR NOT EXISTS (
        SELECT FROM mq_cursor own WHERE own.group_id = r.group_id AND own.topic_id = r.new_topic_id AND own.active))
     HAVING r.new_id IS NOT NULL) o $$;

-- Rows whose message is no longer in the log tell nobody anything; in bounded steps.
CREATE OR REPLACE FUNCTION mq_forget_redriven(p_limit int DEFAULT 100000) RETURNS int LANGUAGE plpgsql AS $$
DECLARE v_first bigint := (SELECT min(p.lo::bigint) FROM mq_partitions('mq_message') p); k int;
BEGIN
  DELETE FROM mq_redriven WHERE id IN (
    SELECT r.id FROM mq_redriven r WHERE r.message_id < v_first AND (r.new_id IS NULL OR r.new_id < v_first) ORDER BY r.id LIMIT p_limit);
  GET DIAGNOSTICS k = ROW_COUNT;
  RETURN k;
END $$;

-- The private topic of a group, subscribed to; with the group's row locked.
CREATE OR REPLACE FUNCTION mq_private_topic(p_group bigint, p_topic bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE v_topic bigint;
BEGIN
  SELECT topic_id INTO v_topic FROM mq_private WHERE group_id = p_group AND of_topic_id = p_topic;
  IF v_topic IS NULL THEN
    v_topic := -nextval('mq_private_seq');
    INSERT INTO mq_private (topic_id, group_id, of_topic_id) VALUES (v_topic, p_group, p_topic);
  END IF;
  PERFORM mq_subscribe(p_group, v_topic, NULL, false);
  RETURN v_topic;
END $$;

-- A dead letter goes on as the message given, to p_topic, or with NULL to its group alone; the original is closed as failed.
CREATE OR REPLACE FUNCTION mq_redrive_edited(p_group bigint, p_id bigint, p_topic bigint, p_tag text, p_key text, p_skey text, p_headers text, p_body bytea, p_actor bigint,
                                  OUT refusal text, OUT redriven_id bigint) LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE e mq_exception; v_of bigint; v_to bigint := p_topic; v_new bigint[];
BEGIN
  PERFORM mq_lock_group(p_group);
  SELECT * INTO e FROM mq_exception x WHERE x.group_id = p_group AND x.msg_id = p_id AND x.status = 'D';
  v_of := coalesce((SELECT of_topic_id FROM mq_private WHERE topic_id = e.topic_id), e.topic_id);
  refusal := CASE WHEN e.msg_id IS NULL THEN 'not_dead'
                  WHEN p_topic IS NULL AND (SELECT retired FROM mq_group WHERE group_id = p_group) THEN 'group_retired'
                  WHEN p_topic IS NULL AND NOT EXISTS (SELECT FROM mq_cursor c WHERE c.group_id = p_group AND c.topic_id = v_of AND c.active) THEN 'not_subscribed'
                  ELSE '' END;
  IF refusal <> '' THEN RETURN; END IF;
  IF v_to IS NULL THEN v_to := mq_private_topic(p_group, v_of); END IF;
  UPDATE mq_exception x SET status = 'F', due_at = NULL, last_at = clock_timestamp(), error = coalesce(x.error || '; ', '') || 'redriven, edited'
   WHERE x.group_id = p_group AND x.msg_id = p_id;
  UPDATE mq_cursor c SET dead = c.dead - 1, failed = c.failed + 1 WHERE c.group_id = p_group AND c.topic_id = e.topic_id;
  v_new := mq_append(v_to, ARRAY[p_tag], ARRAY[p_key], ARRAY[p_skey], ARRAY[p_headers], ARRAY[p_body]);
  INSERT INTO mq_redriven (group_id, message_id, actor_id, watched, new_topic_id, new_id) VALUES (p_group, p_id, p_actor, false, v_to, v_new[1])
    RETURNING id INTO redriven_id;
END $$;
