-- SPDX-License-Identifier: Apache-2.0
-- Indicators by area and day: what upper levels and longer times are summed from. Whole numbers
-- only (microseconds, grams, watt hours, things counted), so a sum is exact in any order.

CREATE TABLE area_day (
    indicator text NOT NULL,
    day date NOT NULL,                  -- local; of a night the date of its dusk
    area text NOT NULL REFERENCES area (area),  -- the finest its devices stood in that day
    kind text NOT NULL DEFAULT '',      -- device class where it is told by class, else ''
    good bigint NOT NULL CHECK (good >= 0),
    bad bigint NOT NULL CHECK (bad >= 0),
    total bigint NOT NULL,              -- known and unknown
    subjects int NOT NULL CHECK (subjects >= 0),
    excluded jsonb NOT NULL DEFAULT '{}',  -- reason: how much does not count
    revision int NOT NULL DEFAULT 1,
    status text NOT NULL CHECK (status IN ('provisional', 'final')),
    rule_version int NOT NULL,
    computed_at timestamptz NOT NULL,
    -- By area first: one community's month must not walk through everybody's.
    PRIMARY KEY (area, indicator, day, kind),
    CHECK (good + bad <= total)
) WITH (fillfactor = 70);

-- What stood there before a final number was restated, and why it was.
CREATE TABLE area_day_revision (
    indicator text NOT NULL,
    day date NOT NULL,
    area text NOT NULL,
    kind text NOT NULL,
    revision int NOT NULL,
    good bigint NOT NULL,
    bad bigint NOT NULL,
    total bigint NOT NULL,
    subjects int NOT NULL,
    excluded jsonb NOT NULL,
    rule_version int NOT NULL,
    computed_at timestamptz NOT NULL,
    replaced_at timestamptz NOT NULL,
    reason text NOT NULL,
    PRIMARY KEY (indicator, day, area, kind, revision)
);

-- A day of one domain in one community: what is to be computed, and whether it is over.
CREATE TABLE community_day (
    domain text NOT NULL,
    day date NOT NULL,
    community text NOT NULL REFERENCES area (area),
    ends_at timestamptz NOT NULL,       -- of the day, or of the night that begins on it
    status text NOT NULL DEFAULT 'provisional' CHECK (status IN ('provisional', 'final')),
    dirty text,                         -- why it is to be computed anew; null: it is up to date
    -- Grows with each mark, so that what was marked while it was computed stays marked.
    marks bigint NOT NULL DEFAULT 1,
    computed_at timestamptz,
    PRIMARY KEY (domain, day, community)
) WITH (fillfactor = 70);
CREATE INDEX community_day_dirty ON community_day (ends_at) WHERE dirty IS NOT NULL;
CREATE INDEX community_day_open ON community_day (ends_at) WHERE status = 'provisional';
