-- SPDX-License-Identifier: Apache-2.0
-- The registry remembers: how many people lived where and when, how each device and area was
-- registered before. Kept by triggers, so nobody can change a device past its history.

CREATE EXTENSION IF NOT EXISTS btree_gist;

-- The facility register: what people must know of a thing to have it mended or replaced.
ALTER TABLE device
    ADD COLUMN component_code text,
    ADD COLUMN owner text,
    ADD COLUMN maker text,
    ADD COLUMN model text,
    ADD COLUMN installed_on date,
    ADD COLUMN warranty_until date,
    ADD COLUMN planned_on date,
    ADD COLUMN road text;               -- the road or yard a lamp belongs to

-- Who lives in an area, and since when. `area.residents` is what the areas file last said.
CREATE TABLE area_population (
    area text NOT NULL REFERENCES area (area),
    valid daterange NOT NULL CHECK (NOT isempty(valid) AND NOT lower_inf(valid)),
    residents int NOT NULL CHECK (residents > 0),
    households int CHECK (households >= 0),
    EXCLUDE USING gist (area WITH =, valid WITH &&)
);
INSERT INTO area_population (area, valid, residents, households)
SELECT area, daterange((now() AT TIME ZONE time_zone)::date, NULL), residents, households
FROM area WHERE residents > 0;

-- A device as it was registered; the open version is how it is. A first one has no beginning.
CREATE TABLE device_version (
    device_id int NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    during tstzrange NOT NULL CHECK (NOT isempty(during)),
    gateway text NOT NULL,
    community text NOT NULL,
    area text NOT NULL,
    life text NOT NULL,
    reporting_period_s double precision NOT NULL,
    rated_power_w double precision,
    programme text NOT NULL,
    road text,
    PRIMARY KEY (device_id, during)
);
CREATE UNIQUE INDEX device_version_open ON device_version (device_id) WHERE upper_inf(during);
CREATE INDEX device_version_closed ON device_version (device_id, upper(during))
    WHERE NOT upper_inf(during);

-- An area as it was: where in the tree it stood, and by which sun and clock its lamps went.
CREATE TABLE area_version (
    area text NOT NULL REFERENCES area (area) ON DELETE CASCADE,
    during tstzrange NOT NULL CHECK (NOT isempty(during)),
    path ltree NOT NULL,
    time_zone text NOT NULL,
    latitude double precision,
    longitude double precision,
    PRIMARY KEY (area, during)
);
CREATE UNIQUE INDEX area_version_open ON area_version (area) WHERE upper_inf(during);

INSERT INTO device_version (device_id, during, gateway, community, area, life,
                            reporting_period_s, rated_power_w, programme, road)
SELECT id, '(,)', gateway, community, area, life, reporting_period_s, rated_power_w, programme, road
FROM device;
INSERT INTO area_version (area, during, path, time_zone, latitude, longitude)
SELECT area, '(,)', path, time_zone, latitude, longitude FROM area;

-- Statement triggers: an import of a city is one statement, and closes all versions at one instant.
-- A version that would last no time (a second change in the same microsecond, or a clock that was
-- set back) is replaced instead of closed.
CREATE FUNCTION keep_device_history() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    at timestamptz := clock_timestamp();
BEGIN
    IF TG_OP = 'UPDATE' THEN
        CREATE TEMPORARY TABLE changed_device ON COMMIT DROP AS
        SELECT n.id, greatest(at, lower(v.during)) AS since
        FROM device_after AS n
        JOIN device_version AS v ON v.device_id = n.id AND upper_inf(v.during)
        WHERE (v.gateway, v.community, v.area, v.life, v.reporting_period_s, v.rated_power_w,
               v.programme, v.road)
              IS DISTINCT FROM
              (n.gateway, n.community, n.area, n.life, n.reporting_period_s, n.rated_power_w,
               n.programme, n.road);
        DELETE FROM device_version AS v USING changed_device AS c
        WHERE v.device_id = c.id AND upper_inf(v.during) AND lower(v.during) = c.since;
        UPDATE device_version AS v SET during = tstzrange(lower(v.during), c.since)
        FROM changed_device AS c
        WHERE v.device_id = c.id AND upper_inf(v.during);
        INSERT INTO device_version (device_id, during, gateway, community, area, life,
                                    reporting_period_s, rated_power_w, programme, road)
        SELECT n.id, tstzrange(c.since, NULL), n.gateway, n.community, n.area, n.life,
               n.reporting_period_s, n.rated_power_w, n.programme, n.road
        FROM device_after AS n JOIN changed_device AS c ON c.id = n.id;
        DROP TABLE changed_device;
    ELSE
        INSERT INTO device_version (device_id, during, gateway, community, area, life,
                                    reporting_period_s, rated_power_w, programme, road)
        SELECT id, '(,)', gateway, community, area, life, reporting_period_s, rated_power_w,
               programme, road
        FROM device_after;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER device_history_insert AFTER INSERT ON device
    REFERENCING NEW TABLE AS device_after
    FOR EACH STATEMENT EXECUTE FUNCTION keep_device_history();
CREATE TRIGGER device_history_update AFTER UPDATE ON device
    REFERENCING NEW TABLE AS device_after
    FOR EACH STATEMENT EXECUTE FUNCTION keep_device_history();

CREATE FUNCTION keep_area_history() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    at timestamptz := clock_timestamp();
BEGIN
    IF TG_OP = 'UPDATE' THEN
        CREATE TEMPORARY TABLE changed_area ON COMMIT DROP AS
        SELECT n.area, greatest(at, lower(v.during)) AS since
        FROM area_after AS n
        JOIN area_version AS v ON v.area = n.area AND upper_inf(v.during)
        WHERE (v.path, v.time_zone, v.latitude, v.longitude)
              IS DISTINCT FROM (n.path, n.time_zone, n.latitude, n.longitude);
        DELETE FROM area_version AS v USING changed_area AS c
        WHERE v.area = c.area AND upper_inf(v.during) AND lower(v.during) = c.since;
        UPDATE area_version AS v SET during = tstzrange(lower(v.during), c.since)
        FROM changed_area AS c
        WHERE v.area = c.area AND upper_inf(v.during);
        INSERT INTO area_version (area, during, path, time_zone, latitude, longitude)
        SELECT n.area, tstzrange(c.since, NULL), n.path, n.time_zone, n.latitude, n.longitude
        FROM area_after AS n JOIN changed_area AS c ON c.area = n.area;
        DROP TABLE changed_area;
    ELSE
        INSERT INTO area_version (area, during, path, time_zone, latitude, longitude)
        SELECT area, '(,)', path, time_zone, latitude, longitude FROM area_after;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER area_history_insert AFTER INSERT ON area
    REFERENCING NEW TABLE AS area_after
    FOR EACH STATEMENT EXECUTE FUNCTION keep_area_history();
CREATE TRIGGER area_history_update AFTER UPDATE ON area
    REFERENCING NEW TABLE AS area_after
    FOR EACH STATEMENT EXECUTE FUNCTION keep_area_history();
