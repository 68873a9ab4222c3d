-- Edit on redrive: the message that a person has corrected goes to a topic, or to the one group that had given up the original.

-- What only one group gets lies in a private topic: a log of its own, with an id below zero, to which no other group ever subscribes. So
-- all verbs, counts and proofs hold for it as for any topic; people see it under the name of the topic that it belongs to.
CREATE TABLE mq_private (
    topic_id    bigint PRIMARY KEY,
    group_id    bigint NOT NULL,
    of_topic_id bigint NOT NULL,
    UNIQUE (group_id, of_topic_id),
    CHECK (topic_id < 0)
);
CREATE SEQUENCE mq_private_seq AS bigint;

-- The private topic of a group, subscribed to; with the group's row locked.
CREATE FUNCTION mq_private_topic(p_group bigint, p_topic bigint) RETURNS bigint LANGUAGE plpgsql AS $$
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
CREATE FUNCTION mq_redrive_edited(p_group bigint, p_id bigint, p_topic bigint, p_tag text, p_key text, p_skey text, p_headers text, p_body bytea, p_actor bigint,
                                  OUT refusal text, OUT redriven_id bigint) LANGUAGE plpgsql AS $$
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
ALTER FUNCTION mq_redrive_edited SET plan_cache_mode = force_generic_plan;

-- On to a topic: p_topic, or each message's own (of a private one the topic that it is for); only to p_allowed. The copy names its original in its headers; the original is closed as
-- failed. Takes of the messages as many as p_bytes of bodies allow (the last one may go beyond) and returns a row for each of those.
CREATE OR REPLACE FUNCTION mq_redrive_to(p_group bigint, p_name text, p_ids bigint[], p_topic bigint, p_allowed bigint[], p_operation bigint, p_actor bigint,
                              p_bytes bigint DEFAULT 33554432) RETURNS TABLE (message_id bigint, refusal text)
LANGUAGE plpgsql AS $$
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
ALTER FUNCTION mq_redrive_to SET plan_cache_mode = force_generic_plan;

