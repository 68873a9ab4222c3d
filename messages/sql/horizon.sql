-- Ids, the horizon, partitions, and the storekeeper's sign of life.

-- The ids of a batch whose messages are all new and due now: place in the claim = place in the batch. Nearly always they follow each other.
CREATE OR REPLACE FUNCTION mq_draw_ids(p_n int, p_claim bigint) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE ids bigint[] := mq_draw_ids(p_n);
BEGIN
  IF p_claim IS NOT NULL THEN
    INSERT INTO mq_claim (claim, first_id, ids) SELECT p_claim, x.f, CASE WHEN x.f IS NULL THEN ids END FROM (SELECT CASE WHEN ids[p_n] - ids[1] = p_n - 1 THEN ids[1] END) x(f);
  END IF;
  RETURN ids;
END $$;

-- Lock, then draw: whoever owns an id that is not closed holds ROW EXCLUSIVE on mq_message from before the draw until its
-- commit is visible. That is all the horizon's proof rests on, so this is the only place that draws ids of messages.
CREATE OR REPLACE FUNCTION mq_draw_ids(p_n int) RETURNS bigint[] LANGUAGE plpgsql SET enable_sort = off AS $$
DECLARE ids bigint[];
BEGIN
  LOCK TABLE mq_message IN ROW EXCLUSIVE MODE;
  ids := ARRAY(SELECT nextval('mq_id_seq') FROM generate_series(1, p_n));
  IF ids[1] <= (SELECT closed_id FROM mq_horizon ORDER BY rev DESC LIMIT 1) THEN   -- somebody set the sequence back: refuse loudly, a closed id would be lost in silence
    RAISE EXCEPTION 'mq_id_seq stands below the horizon' USING ERRCODE = 'object_not_in_prerequisite_state',
      HINT = 'Start the storekeeper: it puts the sequence back above the horizon.';
  END IF;
  RETURN ids;
END $$;

-- Time to id, rounded down: rounding up skipped messages. Seconds since 2020 << 20 stays below 2^53 until 2292.
CREATE OR REPLACE FUNCTION mq_id_at(t timestamptz) RETURNS bigint IMMUTABLE PARALLEL SAFE LANGUAGE sql AS $$ SELECT (floor(extract(epoch FROM t))::bigint - 1577836800) << 20 $$;

CREATE OR REPLACE FUNCTION mq_time_of(id bigint) RETURNS timestamptz IMMUTABLE PARALLEL SAFE LANGUAGE sql AS $$ SELECT to_timestamp((id >> 20) + 1577836800) $$;

-- The horizon as it is now, for whoever looks often (see mq_cursors).
CREATE OR REPLACE FUNCTION mq_horizon_now() RETURNS mq_horizon STABLE LANGUAGE plpgsql SET enable_sort = off AS $$
DECLARE h mq_horizon;
BEGIN
  SELECT * INTO h FROM mq_horizon ORDER BY rev DESC LIMIT 1;
  RETURN h;
END $$;

-- One tick: push the sequence up to the clock, close what has ended. Returns the closed id, NULL when another session ticks.
CREATE OR REPLACE FUNCTION mq_tick(p_max_jump interval DEFAULT '1 day') RETURNS bigint LANGUAGE plpgsql SET enable_sort = off AS $$
DECLARE h mq_horizon; v bigint; v_called boolean; v_before bigint; v_bumped bigint; v_drawn bigint; v_refused boolean;
        holders text[]; v_closed bigint; v_advance boolean := true;
BEGIN
  IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
    RAISE EXCEPTION 'mq_tick needs a transaction of its own';   -- its own uncommitted messages must not be closed
  END IF;
  IF NOT pg_try_advisory_xact_lock(7310001) THEN RETURN NULL; END IF;
  SELECT * INTO h FROM mq_horizon ORDER BY rev DESC LIMIT 1;   -- a new revision every 32 ticks: see mq_cursors
  -- Clock, comparison and setval in ONE statement before anything that can block: a stalled ticker once set the sequence back.
  -- A jump of the clock is not followed: it would leave the partitions, and ids never come back.
  SELECT s.last_value,
         CASE WHEN t.id - s.last_value BETWEEN 524288 AND (extract(epoch FROM p_max_jump)::bigint << 20) AND t.id < h.partitioned_to
              THEN setval('mq_id_seq', t.id) END,
         t.id - s.last_value > (extract(epoch FROM p_max_jump)::bigint << 20) OR t.id >= h.partitioned_to
    INTO v_before, v_bumped, v_refused
    FROM mq_id_seq s, (SELECT mq_id_at(clock_timestamp()) AS id) t;
  IF v_refused AND (h.refused_at IS NULL OR h.refused_at < clock_timestamp() - interval '10 s') THEN
    UPDATE mq_horizon SET refused_at = clock_timestamp() WHERE rev = h.rev;
  END IF;
  IF h.closed_id > v_before AND v_bumped IS NULL THEN                -- set back by hand, or restored from a dump
    PERFORM setval('mq_id_seq', h.closed_id);
  END IF;
  SELECT last_value, is_called INTO v, v_called FROM mq_id_seq;      -- (1) no id above v has been drawn
  IF NOT v_called THEN v := v - 1; END IF;
  IF v <= h.closed_id THEN RETURN h.closed_id; END IF;
  -- (2) AFTER v was read: who might still commit an id at or below v. Own locks count too.
  SELECT coalesce(array_agg(DISTINCT l.virtualtransaction), '{}') INTO holders FROM pg_locks l
   WHERE l.locktype = 'relation' AND l.relation = 'mq_message'::regclass AND l.mode = 'RowExclusiveLock' AND l.granted
     AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database());
  IF holders = '{}' THEN v_closed := v;                                    -- (3a) nobody
  ELSIF NOT holders && h.pending_holders THEN v_closed := h.pending_id;    -- (3b) all seen when pending_id was read have ended
  ELSE v_closed := h.closed_id; v_advance := false;
  END IF;
  IF NOT v_advance AND v_bumped IS NULL THEN RETURN h.closed_id; END IF;
  v_drawn := CASE WHEN v > coalesce(v_bumped, h.bumped_id) THEN v WHEN v_before > h.bumped_id THEN v_before ELSE h.drawn_id END;
  PERFORM set_config('synchronous_commit', 'off', true);   -- WAL is a prefix: whatever saw this tick is lost with it or not at all
  UPDATE mq_horizon SET closed_id = v_closed, at = clock_timestamp(), bumped_id = coalesce(v_bumped, h.bumped_id), drawn_id = v_drawn,
         pending_id      = CASE WHEN v_advance THEN v ELSE h.pending_id END,
         pending_holders = CASE WHEN v_advance THEN holders ELSE h.pending_holders END,
         uses = (uses + 1) % 32, rev = rev + (uses = 31)::int WHERE rev = h.rev;
  -- Only the ticker notifies (a NOTIFY per send cost two thirds of the throughput), and only when something was sent.
  IF v_closed > h.closed_id AND v_drawn > h.closed_id THEN PERFORM pg_notify('mq_horizon', v_closed::text); END IF;
  RETURN v_closed;
END $$;

-- Leaf partitions take rows through their parent only: a direct INSERT would not hold the lock that the horizon looks at.
-- A trigger instead of REVOKE, since the product's role owns the tables; statement triggers of a leaf do not fire for routed rows.
CREATE OR REPLACE FUNCTION mq_refuse_leaf() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'insert into %, not into its partition %', TG_ARGV[0], TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;

-- A partition made alone with its CHECK and then attached: CREATE … PARTITION OF would queue behind any reader and block every send.
CREATE OR REPLACE FUNCTION mq_attach(p_parent text, p_suffix text, p_column text, p_from text, p_to text, p_with text DEFAULT '') RETURNS boolean LANGUAGE plpgsql
SET lock_timeout = '500ms' AS $$
DECLARE v_name text := p_parent || '_' || p_suffix;
BEGIN
  IF to_regclass(quote_ident(v_name)) IS NOT NULL THEN RETURN false; END IF;
  EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)%s', v_name, p_parent, p_with);
  EXECUTE format('ALTER TABLE %I ADD CONSTRAINT bounds CHECK (%I >= %L AND %I < %L)', v_name, p_column, p_from, p_column, p_to);
  EXECUTE format('CREATE TRIGGER refuse_leaf BEFORE INSERT ON %I FOR EACH STATEMENT EXECUTE FUNCTION mq_refuse_leaf(%L)', v_name, p_parent);
  EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', p_parent, v_name, p_from, p_to);
  EXECUTE format('ALTER TABLE %I DROP CONSTRAINT bounds', v_name);   -- the partition's own bounds say it now; nobody else sees the table yet
  RETURN true;
END $$;

-- The partitions of a table with their bounds as text. A function, so that no cast of a bound is tried on another table's partition.
CREATE OR REPLACE FUNCTION mq_partitions(p_parent regclass) RETURNS TABLE (partition regclass, lo text, hi text) STABLE LANGUAGE plpgsql AS $$
BEGIN
  RETURN QUERY SELECT c.oid::regclass, substring(pg_get_expr(c.relpartbound, c.oid) FROM $r$FROM \('([^']+)'\)$r$),
                      substring(pg_get_expr(c.relpartbound, c.oid) FROM $r$TO \('([^']+)'\)$r$)
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = p_parent;
END $$;

-- The next missing partition of the given number of days from now on (ids) and of the given months (delayed). Returns its name,
-- NULL when nothing is missing: the storekeeper calls it until then, one short transaction each.
CREATE OR REPLACE FUNCTION mq_upkeep(p_days int DEFAULT 14, p_months int DEFAULT 14, p_years int DEFAULT 12) RETURNS text LANGUAGE plpgsql AS $$
DECLARE v_bound timestamptz; v_day timestamptz; v_edge timestamptz; v_next timestamptz; v_name text; v_utc timestamptz; h mq_horizon;
BEGIN
  PERFORM pg_advisory_xact_lock(7310004);
  SELECT * INTO h FROM mq_horizon;
  v_utc := date_trunc('day', clock_timestamp(), 'UTC');
  v_bound := CASE WHEN h.partitioned_to = 0 THEN v_utc - interval '1 day' ELSE mq_time_of(h.partitioned_to) END;
  IF v_bound <= v_utc + make_interval(days => p_days) THEN
    v_day := v_bound + interval '1 day';   -- after a long pause one wide partition bridges the gap
    IF v_day < v_utc THEN v_day := v_utc; END IF;
    v_name := to_char(v_bound AT TIME ZONE 'UTC', 'YYYYMMDD');
    PERFORM mq_attach('mq_message', v_name, 'id', mq_id_at(v_bound)::text, mq_id_at(v_day)::text, ' WITH (autovacuum_vacuum_insert_scale_factor = 0.05)');
    PERFORM mq_attach('mq_history', v_name, 'hi', mq_id_at(v_bound)::text, mq_id_at(v_day)::text);
    UPDATE mq_horizon SET partitioned_to = mq_id_at(v_day);
    RETURN 'mq_message_' || v_name;
  END IF;
  -- Delayed messages: months first, whole years beyond them (far-future partitions are coarse).
  v_edge := coalesce((SELECT max(p.hi::timestamptz) FROM mq_partitions('mq_delayed') p), date_trunc('month', clock_timestamp() - interval '2 days', 'UTC'));
  IF v_edge < date_trunc('month', clock_timestamp(), 'UTC') + make_interval(months => p_months) OR date_trunc('year', v_edge, 'UTC') <> v_edge THEN
    v_next := (v_edge AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC';
    v_name := to_char(v_edge AT TIME ZONE 'UTC', 'YYYYMM');
  ELSIF v_edge < date_trunc('year', clock_timestamp(), 'UTC') + make_interval(years => p_years) THEN
    v_next := (v_edge AT TIME ZONE 'UTC' + interval '1 year') AT TIME ZONE 'UTC';
    v_name := to_char(v_edge AT TIME ZONE 'UTC', 'YYYY');
  ELSE
    RETURN NULL;
  END IF;
  PERFORM mq_attach('mq_delayed', v_name, 'deliver_at', v_edge::text, v_next::text);
  RETURN 'mq_delayed_' || v_name;
END $$;

-- Losing a beat in a crash of the server matters to nobody.
CREATE OR REPLACE FUNCTION mq_beat() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  INSERT INTO mq_storekeeper (beat_at) VALUES (clock_timestamp()) ON CONFLICT (one) DO UPDATE SET beat_at = EXCLUDED.beat_at;
END $$;
