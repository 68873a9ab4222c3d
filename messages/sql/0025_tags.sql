-- Several tags per message, and regular expressions as filters.
--
-- A message with several tags has them in its column as “paid || urgent”; any of them may match. A filter is a list of tags, or one
-- element that begins with ~, which no tag can: a regular expression that a whole tag must match. core/tag_patterns.py lets only such
-- through that Postgres evaluates without going back.
SET LOCAL lock_timeout = '10s';

-- Two or more tags, one of which must match the expression.
CREATE FUNCTION mq_any_like(p_tags text, p_pattern text) RETURNS boolean IMMUTABLE LANGUAGE sql AS
$$ SELECT coalesce(bool_or(t COLLATE "C" ~ p_pattern), false) FROM unnest(string_to_array(p_tags, ' || ')) t $$;

-- Whether a message with this in its column is let through. One expression without a subquery, so that Postgres puts it in its place
-- and no function is called for a message.
CREATE FUNCTION mq_has_tag(p_tag text, p_filter text[]) RETURNS boolean IMMUTABLE LANGUAGE sql AS $$
  SELECT p_tag = ANY (p_filter)
      OR CASE WHEN left(p_filter[1], 1) = '~' THEN CASE WHEN strpos(p_tag, '|') = 0 THEN p_tag COLLATE "C" ~ substr(p_filter[1], 2)
                                                       ELSE mq_any_like(p_tag, substr(p_filter[1], 2)) END
              ELSE strpos(p_tag, '|') > 0 AND string_to_array(p_tag, ' || ') && p_filter END $$;

-- Whether a message has one tag, or exactly these: for people who search.
CREATE FUNCTION mq_tagged(p_tag text, p_one text) RETURNS boolean IMMUTABLE LANGUAGE sql AS
$$ SELECT p_tag = p_one OR (strpos(p_tag, '|') > 0 AND p_one = ANY (string_to_array(p_tag, ' || '))) $$;

-- What stands in the column of a topic's messages, as far as it is in the counters: which of the counters a filter adds up.
CREATE TABLE mq_label (
    topic_id bigint  NOT NULL,
    several  boolean NOT NULL,                               -- more than one tag
    label    text    NOT NULL,
    PRIMARY KEY (topic_id, several, label)
);
INSERT INTO mq_label SELECT DISTINCT s.topic_id, false, s.tag FROM mq_stat s WHERE s.tag <> '*';
CREATE FUNCTION mq_stat_labels() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO mq_label SELECT DISTINCT s.topic_id, strpos(s.tag, '|') > 0, s.tag FROM made s WHERE s.tag <> '*' ON CONFLICT DO NOTHING;
  RETURN NULL;
END $$;
CREATE TRIGGER labels AFTER INSERT ON mq_stat REFERENCING NEW TABLE AS made FOR EACH STATEMENT EXECUTE FUNCTION mq_stat_labels();

-- As before, with several tags and expressions; p_also: those that a second filter lets through, too. Messages of a topic in (lo, hi]
-- that match; exact, from the counters and a short tail at both ends.
DROP FUNCTION mq_count(bigint, bigint, bigint, text[]);
CREATE FUNCTION mq_count(p_topic bigint, p_lo bigint, p_hi bigint, p_tags text[], p_also text[] DEFAULT NULL) RETURNS bigint STABLE LANGUAGE plpgsql AS $$
DECLARE v_a bigint; v_b bigint; v_n bigint; v_m bigint := 0; v_tags text[] := '{*}'; v_hi bigint := least(p_hi, (SELECT last_value FROM mq_id_seq));
BEGIN
  IF p_lo >= v_hi THEN RETURN 0; END IF;
  SELECT s.hi INTO v_a FROM mq_stat s WHERE s.topic_id = p_topic AND s.tag = '*' AND s.hi >= p_lo AND s.hi <= v_hi ORDER BY s.hi LIMIT 1;
  IF v_a IS NULL THEN
    SELECT count(*) INTO v_n FROM mq_message m WHERE m.topic_id = p_topic AND m.id > p_lo AND m.id <= v_hi
       AND (p_tags IS NULL OR mq_has_tag(m.tag, p_tags)) AND (p_also IS NULL OR mq_has_tag(m.tag, p_also));
    RETURN v_n;
  END IF;
  SELECT s.hi INTO v_b FROM mq_stat s WHERE s.topic_id = p_topic AND s.tag = '*' AND s.hi <= v_hi ORDER BY s.hi DESC LIMIT 1;
  SELECT count(*) INTO v_n FROM mq_message m WHERE m.topic_id = p_topic AND m.id > p_lo AND m.id <= v_a
     AND (p_tags IS NULL OR mq_has_tag(m.tag, p_tags)) AND (p_also IS NULL OR mq_has_tag(m.tag, p_also));
  SELECT v_n + count(*) INTO v_n FROM mq_message m WHERE m.topic_id = p_topic AND m.id > v_b AND m.id <= v_hi
     AND (p_tags IS NULL OR mq_has_tag(m.tag, p_tags)) AND (p_also IS NULL OR mq_has_tag(m.tag, p_also));
  IF v_b > v_a THEN   -- a tag's newest row at or below a cut holds its count at that cut
    IF p_also IS NULL AND left(p_tags[1], 1) <> '~' THEN
      v_tags := p_tags || ARRAY(SELECT l.label FROM mq_label l WHERE l.topic_id = p_topic AND l.several AND mq_has_tag(l.label, p_tags));
    ELSIF p_tags IS NOT NULL OR p_also IS NOT NULL THEN
      v_tags := ARRAY(SELECT l.label FROM mq_label l WHERE l.topic_id = p_topic
                         AND (p_tags IS NULL OR mq_has_tag(l.label, p_tags)) AND (p_also IS NULL OR mq_has_tag(l.label, p_also)));
    END IF;
    SELECT coalesce(sum(coalesce(b.cum, 0) - coalesce(a.cum, 0)), 0) INTO v_m FROM unnest(v_tags) t(tag)
      LEFT JOIN LATERAL (SELECT s.cum FROM mq_stat s WHERE s.topic_id = p_topic AND s.tag = t.tag AND s.hi <= v_b ORDER BY s.hi DESC LIMIT 1) b ON true
      LEFT JOIN LATERAL (SELECT s.cum FROM mq_stat s WHERE s.topic_id = p_topic AND s.tag = t.tag AND s.hi <= v_a ORDER BY s.hi DESC LIMIT 1) a ON true;
  END IF;
  RETURN v_n + v_m;
END $$;
ALTER FUNCTION mq_count SET plan_cache_mode = force_generic_plan;

-- As before; what two filters let through is no list of tags any more, so the count takes both.
CREATE OR REPLACE FUNCTION mq_reset_plan(p_group bigint, p_topic bigint, p_target bigint) RETURNS mq_plan STABLE LANGUAGE plpgsql AS $$
DECLARE g mq_group; c mq_cursor; t record; p mq_plan; v_again bigint;
BEGIN
  SELECT * INTO g FROM mq_group q WHERE q.group_id = p_group;
  SELECT * INTO c FROM mq_cursor q WHERE q.group_id = p_group AND q.topic_id = p_topic AND q.active;
  p.done := false;
  p.problem := CASE WHEN g.group_id IS NULL THEN 'unknown' WHEN g.retired THEN 'retired' WHEN c.group_id IS NULL THEN 'not_subscribed'
                    WHEN p_target < mq_oldest() - 1 AND p_target < c.pos THEN 'beyond_retention'
                    WHEN p_target > c.pos AND p_target > (SELECT closed_id FROM mq_horizon) THEN 'ahead' END;
  IF p.problem IS NOT NULL THEN RETURN p; END IF;
  p.pos := c.pos; p.target := p_target; p.repeated := 0; p.first_time := 0; p.passed := 0;
  SELECT * INTO t FROM mq_tally(p_group, p_topic, least(p_target, c.pos), c.pos);
  p.processing := t.processing; p.succeeded := t.succeeded; p.later := t.later; p.dead := t.dead; p.failed := t.failed; p.skipped := t.skipped;
  IF p_target > c.pos THEN
    p.passed := mq_count(p_topic, c.pos, p_target, c.tags);
  ELSIF p_target < c.pos THEN   -- what is handed out from there on goes by the filter of today
    v_again := mq_count(p_topic, p_target, c.pos, c.tags);
    SELECT coalesce(sum(mq_count(p_topic, greatest(s.lo, p_target), least(coalesce(s.hi, c.pos), c.pos), s.tags, c.tags)), 0)
      INTO p.repeated FROM mq_span s
     WHERE s.group_id = p_group AND s.topic_id = p_topic AND s.kind = 'D' AND s.lo < c.pos AND (s.hi IS NULL OR s.hi > p_target);
    p.first_time := v_again - p.repeated;
  END IF;
  p.fingerprint := md5(concat_ws('|', c.pos, p_target, c.era, c.filter_no, c.processing, c.succeeded, c.later, c.dead, c.failed, c.skipped,
                                 p.repeated, p.first_time, p.passed, p.processing, p.succeeded, p.later, p.dead, p.failed, p.skipped));
  RETURN p;
END $$;

-- The one condition, in all functions that say it: “tag = ANY (filter)” becomes mq_has_tag(tag, filter). Nothing else of them changes,
-- so they are not written out again; functions of later files use mq_has_tag themselves (a test looks for the others).
DO $$
DECLARE f record;
BEGIN
  FOR f IN SELECT p.oid, p.prosrc FROM pg_proc p WHERE p.pronamespace = current_schema::regnamespace AND p.proname LIKE 'mq\_%'
             AND p.proname <> 'mq_has_tag' AND p.prosrc ~ '\mtag = ANY \(' LOOP
    EXECUTE regexp_replace(pg_get_functiondef(f.oid), '(\m\w+\.tag) = ANY \(', 'mq_has_tag(\1, ', 'g');
  END LOOP;
END $$;
