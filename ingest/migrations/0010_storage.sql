-- SPDX-License-Identifier: Apache-2.0
-- Where a device's state is found by community, what is kept of raw readings when they go, and
-- how far back they reach.

-- The community a device stands in: never changed by a reading, so updates of a state stay HOT,
-- and the states of a community are found without looking up each device.
ALTER TABLE device_state ADD COLUMN community text;
UPDATE device_state AS s SET community = d.community FROM device AS d WHERE d.id = s.device_id;
CREATE INDEX device_state_community ON device_state (community);

-- Statement triggers that see only rows that are new: a flush that updates states does not run them
-- for any device but one that speaks for the first time.
CREATE FUNCTION place_device_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE device_state AS s SET community = d.community
    FROM state_after AS n JOIN device AS d ON d.id = n.device_id
    WHERE s.device_id = n.device_id;
    RETURN NULL;
END $$;
CREATE TRIGGER device_state_placed AFTER INSERT ON device_state
    REFERENCING NEW TABLE AS state_after
    FOR EACH STATEMENT EXECUTE FUNCTION place_device_state();

CREATE FUNCTION move_device_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE device_state AS s SET community = n.community
    FROM device_after AS n
    WHERE s.device_id = n.id AND s.community IS DISTINCT FROM n.community;
    RETURN NULL;
END $$;
CREATE TRIGGER device_state_moved AFTER UPDATE ON device
    REFERENCING NEW TABLE AS device_after
    FOR EACH STATEMENT EXECUTE FUNCTION move_device_state();

-- A device's readings of one local day in short: what a year is shown from, and what is left of
-- raw readings that are no longer kept.
CREATE TABLE device_day (
    device_id int NOT NULL REFERENCES device (id),
    day date NOT NULL,
    readings int NOT NULL,
    faults int NOT NULL,               -- of them
    -- Of each number of its class, in order (`ingest.store.device_days.numbers`); true is 1.
    least real[] NOT NULL,
    mean real[] NOT NULL,
    greatest real[] NOT NULL,
    PRIMARY KEY (device_id, day)
);
-- Of which computation of a community's day its devices' days were made.
CREATE TABLE device_day_made (
    day date NOT NULL,
    community text NOT NULL REFERENCES area (area),
    computed_at timestamptz NOT NULL,
    PRIMARY KEY (day, community)
);

-- Days of a domain that begin earlier are as they are: raw rows they came from are dropped.
CREATE TABLE raw_kept (
    domain text PRIMARY KEY,
    since timestamptz NOT NULL
);
