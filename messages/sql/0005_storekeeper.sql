-- The storekeeper's own sign of life. The horizon's time is none: any pull that finds it behind ticks by itself and moves it.
CREATE TABLE mq_storekeeper (
    one     smallint    PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    beat_at timestamptz NOT NULL                             -- after a tick and its chores: if one of them hangs, it stands
) WITH (fillfactor = 50);

-- Losing a beat in a crash of the server matters to nobody.
CREATE FUNCTION mq_beat() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  INSERT INTO mq_storekeeper (beat_at) VALUES (clock_timestamp()) ON CONFLICT (one) DO UPDATE SET beat_at = EXCLUDED.beat_at;
END $$;
