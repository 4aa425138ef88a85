-- SPDX-License-Identifier: Apache-2.0
-- Federation: a city tells its province final numbers of its areas' days. Both sides live in every
-- installation; which one works is a matter of configuration.

ALTER TABLE area
    DROP CONSTRAINT area_level_check,
    ADD CONSTRAINT area_level_check
        CHECK (level IN ('province', 'city', 'district', 'street', 'community', 'cell'));
ALTER TABLE gateway_stream
    DROP CONSTRAINT gateway_stream_lane_check,
    ADD CONSTRAINT gateway_stream_lane_check CHECK (lane IN ('telemetry', 'event', 'aggregate'));

-- How far down the tree a level is.
CREATE FUNCTION level_rank(level text) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN array_position(
    ARRAY['province', 'city', 'district', 'street', 'community', 'cell'], level);

-- The province's side. A city is at the broker what a gateway is: one identity, one stream.
CREATE TABLE city (
    city text PRIMARY KEY CHECK (city ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    area text NOT NULL UNIQUE REFERENCES area (area),  -- the top of what it may tell of
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'revoked')),
    admitted_at timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz,
    silent boolean NOT NULL DEFAULT false,
    told_at timestamptz,                -- when a day's numbers last came
    -- What its last status said:
    status_at timestamptz,
    agent_version text,
    waiting bigint,                     -- messages it still has for us
    status_interval_s double precision
);
-- Whose an area is: who told of it first.
CREATE TABLE city_area (
    area text PRIMARY KEY REFERENCES area (area),
    city text NOT NULL REFERENCES city (city),
    version bigint NOT NULL,            -- 0: admitted, nothing told yet
    sha256 bytea NOT NULL
);
CREATE INDEX city_area_city ON city_area (city);
-- What was told of an area's day: the numbers themselves are in area_day.
CREATE TABLE city_day (
    area text NOT NULL REFERENCES area (area),
    day date NOT NULL,
    version bigint NOT NULL,
    sha256 bytea NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (area, day)
) WITH (fillfactor = 90);

-- The city's side: whom it tells, and from where on it has told.
CREATE TABLE province (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    city text NOT NULL,                 -- who we are there
    level text NOT NULL,                -- the finest that is told
    epoch text NOT NULL,                -- of our own database when the stream began
    province_epoch text,                -- of theirs, as last heard
    stream text NOT NULL,
    next_seq bigint NOT NULL DEFAULT 1,
    -- Days from here on are noted below; those before are still to be, newest first. Null: all are.
    noted_from date,
    acknowledged_at timestamptz
);
CREATE TABLE province_area (
    area text PRIMARY KEY,
    version bigint NOT NULL,
    sent bigint NOT NULL DEFAULT 0,     -- the version in the last message made
    told bigint NOT NULL DEFAULT 0,     -- the version last acknowledged
    sha256 bytea NOT NULL
);
CREATE TABLE province_day (
    area text NOT NULL,
    day date NOT NULL,
    version bigint NOT NULL,
    sent bigint NOT NULL DEFAULT 0,
    told bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (area, day)
) WITH (fillfactor = 80);
-- Newest months first; within one by area, for sums of a month are made anew for each message that
-- an area's days in it are in.
CREATE INDEX province_day_unsent ON province_day
    (date_trunc('month', day::timestamp) DESC, area, day DESC) WHERE version > sent;
-- Messages that are made and not acknowledged: immutable, a bounded few.
CREATE TABLE province_message (
    seq bigint PRIMARY KEY,
    payload bytea NOT NULL
);
-- What the province refused for ever.
CREATE TABLE province_refusal (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL,
    seq bigint,
    at_index int,
    reason text NOT NULL,
    area text,
    day date
);

-- Microseconds since 1970, and always more than before: so a city whose database is restored from
-- a backup does not tell new numbers under versions that were used.
CREATE FUNCTION next_version(before bigint) RETURNS bigint LANGUAGE sql VOLATILE
RETURN greatest(before + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);

-- Days told are those of the topmost areas not above the level: together they hold everything below
-- once, and a level may be missing in the tree.
CREATE FUNCTION is_told(level text, above text, finest text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN level_rank(level) >= level_rank(finest)
    AND (above IS NULL OR level_rank(above) < level_rank(finest));

CREATE FUNCTION note_province_days() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM province) THEN
        INSERT INTO province_day AS d (area, day, version)
        SELECT n.area, n.first, next_version(0)
        FROM (
            SELECT DISTINCT s.area, s.first
            FROM province AS p
            CROSS JOIN after_rows AS s
            JOIN area AS a ON a.area = s.area
            LEFT JOIN area AS o ON o.area = s.parent
            WHERE s.span = 'day' AND is_told(a.level, o.level, p.level)
        ) AS n
        ORDER BY n.area, n.first
        ON CONFLICT (area, day) DO UPDATE SET version = next_version(d.version);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER province_day_insert AFTER INSERT ON area_sum
    REFERENCING NEW TABLE AS after_rows FOR EACH STATEMENT EXECUTE FUNCTION note_province_days();
CREATE TRIGGER province_day_update AFTER UPDATE ON area_sum
    REFERENCING NEW TABLE AS after_rows FOR EACH STATEMENT EXECUTE FUNCTION note_province_days();
