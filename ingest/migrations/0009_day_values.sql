-- SPDX-License-Identifier: Apache-2.0
-- What a day's tallies cannot say: how long single things took, how each road stood, and by which
-- clock a fault is to be repaired. Replaced whole with their day, in its transaction.

CREATE TABLE device_duration (
    indicator text NOT NULL,
    day date NOT NULL,                  -- local; of a night the date of its dusk
    community text NOT NULL REFERENCES area (area),  -- whose day it is of
    area text NOT NULL REFERENCES area (area),       -- the finest the device stood in that day
    device_id int NOT NULL REFERENCES device (id),
    at timestamptz NOT NULL,            -- when it was over, or was last known to last
    took_us bigint NOT NULL CHECK (took_us >= 0),
    finished boolean NOT NULL,          -- false: it took at least so long
    PRIMARY KEY (community, indicator, day, device_id, at)
);
CREATE INDEX device_duration_area ON device_duration (area, indicator, day)
    INCLUDE (took_us, finished);

CREATE TABLE road_night (
    community text NOT NULL REFERENCES area (area),
    night date NOT NULL,                -- local date of its dusk
    road text NOT NULL,
    lamps int NOT NULL CHECK (lamps > 0),
    lit int NOT NULL CHECK (lit >= 0),
    dark int NOT NULL CHECK (dark >= 0),
    dark_max int,                       -- how many may be; null: so many lamps that no rule applies
    verdict text CHECK (verdict IN ('met', 'not_met', 'undetermined')),
    PRIMARY KEY (community, night, road),
    CHECK (lit + dark <= lamps),
    CHECK ((dark_max IS NULL) = (verdict IS NULL))
);

-- Repair clocks read faults by when they were raised.
CREATE INDEX alert_fault ON alert (raised_at) WHERE rule = 'device.fault';

-- What the configuration says of faults and of the calendar, for whoever computes.
CREATE TABLE fault_class (
    fault text PRIMARY KEY,
    class text NOT NULL CHECK (class IN ('emergency', 'ordinary', 'major'))
);
CREATE TABLE holiday (
    day date PRIMARY KEY
);
