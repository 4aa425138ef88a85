-- SPDX-License-Identifier: Apache-2.0
-- The first schema: areas and registry, streams, readings and events, indicators, alerts, people.
-- Hypertables carry no unique index (deduplication is by message), no foreign key, no trigger:
-- each would end COPY's multi-insert. Wide rows, 8-byte columns first.

CREATE EXTENSION IF NOT EXISTS timescaledb;
CREATE EXTENSION IF NOT EXISTS ltree;

-- One row: what a database is. `epoch` changes when it is restored from a backup (down/ack).
CREATE TABLE installation (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch text NOT NULL DEFAULT substr(md5(gen_random_uuid()::text), 1, 12),
    registry_revision bigint NOT NULL DEFAULT 1
);
INSERT INTO installation DEFAULT VALUES;

-- Areas: city > district > street > community > cell; levels may be missing.
CREATE TABLE area (
    area text PRIMARY KEY CHECK (area ~ '^[a-z0-9][a-z0-9-]{0,63}$'),
    parent text REFERENCES area (area),
    path ltree NOT NULL UNIQUE,  -- the ids from the root down, '-' as '_'
    level text NOT NULL CHECK (level IN ('city', 'district', 'street', 'community', 'cell')),
    name text NOT NULL,
    name_en text,
    time_zone text NOT NULL DEFAULT 'Asia/Shanghai',
    latitude double precision CHECK (latitude BETWEEN -90 AND 90),
    longitude double precision CHECK (longitude BETWEEN -180 AND 180),
    households int CHECK (households >= 0),
    residents int CHECK (residents >= 0)
);
CREATE INDEX area_path ON area USING gist (path);

CREATE TABLE gateway (
    gateway text PRIMARY KEY CHECK (gateway ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    community text NOT NULL REFERENCES area (area),
    name text NOT NULL DEFAULT '',
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'revoked')),
    -- By the end-to-end heartbeat, never by the broker's word:
    last_seen_at timestamptz,
    silent boolean NOT NULL DEFAULT false,
    -- What its last status said:
    status_at timestamptz,
    agent_version text,
    outbox_messages bigint,
    clock text NOT NULL DEFAULT 'unknown',
    status_interval_s double precision
);
CREATE INDEX gateway_community ON gateway (community);

CREATE TABLE device (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device text NOT NULL UNIQUE CHECK (device ~ '^[a-z0-9][a-z0-9-]{0,63}$'),
    kind text NOT NULL,
    gateway text NOT NULL REFERENCES gateway (gateway),
    community text NOT NULL REFERENCES area (area),
    area text NOT NULL REFERENCES area (area),  -- the finest known: cell or community
    name text NOT NULL DEFAULT '',
    name_en text,
    life text NOT NULL DEFAULT 'in_service'
        CHECK (life IN ('planned', 'installed', 'in_service', 'maintenance', 'retired')),
    in_service_from timestamptz NOT NULL DEFAULT now(),
    reporting_period_s double precision NOT NULL DEFAULT 600 CHECK (reporting_period_s > 0),
    rated_power_w double precision CHECK (rated_power_w > 0),  -- lamps
    programme text NOT NULL DEFAULT 'sun'                      -- lamps
);
CREATE INDEX device_community ON device (community, kind);
CREATE INDEX device_gateway ON device (gateway);

-- Accepted maintenance: not due, not counted.
CREATE TABLE maintenance (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id int NOT NULL REFERENCES device (id),
    during tstzrange NOT NULL CHECK (NOT isempty(during)),
    reason text NOT NULL
);
CREATE INDEX maintenance_device ON maintenance (device_id);

-- Which seqs of which stream are stored, dead-lettered or closed as a gap.
CREATE TABLE gateway_stream (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gateway text NOT NULL,
    stream text NOT NULL,
    lane text NOT NULL CHECK (lane IN ('telemetry', 'event')),
    seen int8multirange NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (gateway, stream)
) WITH (fillfactor = 50);

CREATE TABLE stream_gap (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream_id bigint NOT NULL REFERENCES gateway_stream (id),
    first bigint NOT NULL,
    last bigint NOT NULL,
    count bigint NOT NULL CHECK (count > 0),  -- messages really missing
    cause text NOT NULL CHECK (cause IN ('evicted', 'vanished')),
    at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    CHECK (first <= last)
);

CREATE TABLE dead_letter (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at timestamptz NOT NULL,
    gateway text,
    topic text NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    stream text,
    seq bigint,
    at_index int,  -- which reading of the batch; null: the whole message
    sha256 bytea NOT NULL,             -- of the whole payload
    raw bytea                          -- the whole payload; null: in the row before, same sha256
);
CREATE INDEX dead_letter_received ON dead_letter (received_at);
CREATE INDEX dead_letter_gateway ON dead_letter (gateway, received_at);

-- Readings: one wide hypertable a class, exactly one index.
CREATE TABLE reading_lamp (
    at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    energy_kwh double precision,
    device_id int NOT NULL,
    level_pct real, power_w real, voltage_v real, current_a real, burn_hours real, lux real,
    battery_pct real, solar_w real,
    lit boolean,
    fault text
);
CREATE TABLE reading_bin (
    at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    device_id int NOT NULL,
    fill_pct real, weight_kg real, temperature_c real,
    lid_open boolean, tilt boolean,
    stream text,
    fault text
);
CREATE TABLE reading_gate (
    at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    device_id int NOT NULL,
    door text, lock text,
    fault text
);
CREATE TABLE reading_alarm (
    at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    device_id int NOT NULL,
    battery_pct real,
    armed boolean,
    fault text
);
-- Events: `event` names what happened.
CREATE TABLE event_bin (
    at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    device_id int NOT NULL,
    weight_kg real,
    sorted_ok boolean,
    event text NOT NULL,
    stream text
);
CREATE TABLE event_gate (
    at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    device_id int NOT NULL,
    event text NOT NULL,
    direction text,
    credential text  -- a keyed pseudonym made on the gateway
);
CREATE TABLE event_alarm (
    at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    device_id int NOT NULL,
    event text NOT NULL,
    phase text NOT NULL,
    occurrence text NOT NULL,
    zone text
);
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['reading_lamp', 'reading_bin', 'reading_gate', 'reading_alarm',
                                'event_bin', 'event_gate', 'event_alarm'] LOOP
        PERFORM create_hypertable(name::regclass, by_range('at', INTERVAL '1 day'),
                                  create_default_indexes => false);
        EXECUTE format('CREATE INDEX %I ON %I (device_id, at)', name || '_device_at', name);
    END LOOP;
END $$;

-- The latest state of each device: one row, one HOT update a flush; nothing that changes is indexed.
CREATE TABLE device_state (
    device_id int PRIMARY KEY REFERENCES device (id),
    at timestamptz NOT NULL,           -- of the latest reading; only moves forward
    received_at timestamptz NOT NULL,
    since timestamptz NOT NULL,        -- since when `fault` is as it is, device time
    silent boolean NOT NULL DEFAULT false,
    fault text,
    lit boolean,                       -- lamps: what the latest reading that tells says of light,
    lit_at timestamptz,                -- and when it said so: its hold is still open
    reading jsonb NOT NULL             -- its fields, without those that say nothing
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

-- Lighting of one lamp in one night. Times in microseconds, exact. `lit` and `dark` count what
-- readings up to the latest one settle; what the latest still holds is added by the reader.
CREATE TABLE lamp_night (
    device_id int NOT NULL REFERENCES device (id),
    night date NOT NULL,               -- local date of its dusk
    community text NOT NULL,           -- where the lamp stood that night
    due tstzmultirange NOT NULL,
    due_us bigint NOT NULL,
    due_to timestamptz NOT NULL,       -- end of the night (local noon): settled nights lie before
    lit_us bigint NOT NULL DEFAULT 0,
    dark_us bigint NOT NULL DEFAULT 0,
    revision int NOT NULL DEFAULT 1,
    status text NOT NULL DEFAULT 'provisional' CHECK (status IN ('provisional', 'final')),
    dirty boolean NOT NULL DEFAULT false,
    PRIMARY KEY (device_id, night)
) WITH (fillfactor = 50);
CREATE INDEX lamp_night_community ON lamp_night (community, night);
CREATE INDEX lamp_night_dirty ON lamp_night (device_id, night) WHERE dirty;

-- Alerts: one row an occurrence, and what happened to it.
CREATE TABLE alert (
    id uuid PRIMARY KEY,
    rule text NOT NULL,
    severity text NOT NULL CHECK (severity IN ('critical', 'major', 'minor', 'info')),
    kind text NOT NULL,                -- device class, or 'gateway'
    device text REFERENCES device (device),
    gateway text NOT NULL,
    community text NOT NULL REFERENCES area (area),
    area text NOT NULL REFERENCES area (area),
    key text NOT NULL DEFAULT '',      -- tells occurrences on one device apart (alarm occurrence)
    params jsonb NOT NULL DEFAULT '{}',
    active boolean NOT NULL,
    acknowledged boolean NOT NULL DEFAULT false,
    late boolean NOT NULL DEFAULT false,  -- raised from readings received long after they were made
    raised_at timestamptz NOT NULL,    -- device time
    received_at timestamptz NOT NULL,
    cleared_at timestamptz,
    acknowledged_at timestamptz,
    acknowledged_by text,
    note text,
    changed_at timestamptz NOT NULL,   -- server time of the last change
    version int NOT NULL DEFAULT 1
);
-- A condition stands at most once: a crash can neither lose nor double an alert.
CREATE UNIQUE INDEX alert_active ON alert (rule, gateway, coalesce(device, ''), key) WHERE active;
-- An alarm occurrence makes one alert for ever, however often it is told.
CREATE UNIQUE INDEX alert_occurrence ON alert (rule, device, key) WHERE key <> '';
CREATE INDEX alert_open ON alert (community, raised_at) WHERE active OR NOT acknowledged;
CREATE INDEX alert_raised ON alert (community, raised_at);
CREATE INDEX alert_changed ON alert (changed_at);

CREATE TABLE alert_history (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    alert uuid NOT NULL REFERENCES alert (id),
    at timestamptz NOT NULL,
    actor text NOT NULL,               -- 'rule' or a person
    action text NOT NULL CHECK (action IN ('raised', 'cleared', 'acknowledged')),
    reason text NOT NULL,
    note text
);
CREATE INDEX alert_history_alert ON alert_history (alert, id);

-- Conditions whose on-delay is running: what a restart must remember.
CREATE TABLE alert_pending (
    rule text NOT NULL,
    device_id int NOT NULL REFERENCES device (id),
    since timestamptz NOT NULL,        -- device time
    PRIMARY KEY (rule, device_id)
);

-- People, their sessions, and tokens of services. Secrets are stored hashed only.
CREATE TABLE person (
    username text PRIMARY KEY CHECK (username ~ '^[a-z0-9][a-z0-9._-]{1,39}$'),
    password_hash text NOT NULL,       -- argon2id
    role text NOT NULL CHECK (role IN ('admin', 'property', 'police')),
    area text NOT NULL REFERENCES area (area),
    language text CHECK (language IN ('zh-CN', 'en')),
    active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE session (
    token_sha256 bytea PRIMARY KEY,
    username text NOT NULL REFERENCES person (username) ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    used_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX session_username ON session (username);
CREATE TABLE service_token (
    token_sha256 bytea PRIMARY KEY,
    name text NOT NULL UNIQUE,
    role text NOT NULL CHECK (role IN ('admin', 'property', 'police')),
    area text NOT NULL REFERENCES area (area),
    created_at timestamptz NOT NULL DEFAULT now()
);
