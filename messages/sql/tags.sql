-- Several tags per message, and regular expressions as filters.
--
-- A message with several tags has them in its column as “paid || urgent”; any of them may match. A filter is a list of tags, or one
-- element that begins with ~, which no tag can: a regular expression that a whole tag must match. core/tag_patterns.py lets only such
-- through that Postgres evaluates without going back.

-- Two or more tags, one of which must match the expression.
CREATE OR REPLACE FUNCTION mq_any_like(p_tags text, p_pattern text) RETURNS boolean IMMUTABLE LANGUAGE sql AS $$ SELECT coalesce(bool_or(t COLLATE "C" ~ p_pattern), false) FROM unnest(string_to_array(p_tags, ' || ')) t $$;

-- Whether a message with this in its column is let through. One expression without a subquery, so that Postgres puts it in its place
-- and no function is called for a message.
CREATE OR REPLACE FUNCTION mq_has_tag(p_tag text, p_filter text[]) RETURNS boolean IMMUTABLE LANGUAGE sql AS $$
  SELECT p_tag = ANY (p_filter)
      OR CASE WHEN left(p_filter[1], 1) = '~' THEN CASE WHEN strpos(p_tag, '|') = 0 THEN p_tag COLLATE "C" ~ substr(p_filter[1], 2)
                                                       ELSE mq_any_like(p_tag, substr(p_filter[1], 2)) END
              ELSE strpos(p_tag, '|') > 0 AND string_to_array(p_tag, ' || ') && p_filter END $$;

-- Whether a message has one tag, or exactly these: for people who search.
CREATE OR REPLACE FUNCTION mq_tagged(p_tag text, p_one text) RETURNS boolean IMMUTABLE LANGUAGE sql AS $$ SELECT p_tag = p_one OR (strpos(p_tag, '|') > 0 AND p_one = ANY (string_to_array(p_tag, ' || '))) $$;
