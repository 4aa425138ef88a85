-- SPDX-License-Identifier: Apache-2.0
-- Windows of maintenance: planned ahead for an area, a gateway or a device. While one is in force
-- alerts there are muted, and its time counts in no indicator. Never deleted.

CREATE TABLE maintenance_window (
    id uuid PRIMARY KEY,
    -- What it is for: one of these, with all that lies below it.
    area text REFERENCES area (area),
    gateway text REFERENCES gateway (gateway),
    device text REFERENCES device (device),
    begins_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    reason text NOT NULL CHECK (btrim(reason) <> ''),
    created_by text NOT NULL,
    created_at timestamptz NOT NULL,
    -- Called off: all of it is taken back, as if it had never been.
    annulled boolean NOT NULL DEFAULT false,
    during tstzrange NOT NULL GENERATED ALWAYS AS (
        CASE WHEN annulled THEN 'empty'::tstzrange ELSE tstzrange(begins_at, ends_at) END
    ) STORED,
    changed_at timestamptz NOT NULL,
    version int NOT NULL DEFAULT 1,
    -- Alerts that stood when it began were looked for, and none can come in late any more.
    muted boolean NOT NULL DEFAULT false,
    -- Days and nights that are still to be marked, of devices with ids above the given one.
    restate tstzrange NOT NULL DEFAULT 'empty',
    restate_after int NOT NULL DEFAULT 0,
    CHECK (num_nonnulls(area, gateway, device) = 1),
    CHECK (begins_at < ends_at AND begins_at > '-infinity' AND ends_at < 'infinity')
);
CREATE INDEX maintenance_window_during ON maintenance_window USING gist (during);
CREATE INDEX maintenance_window_begins ON maintenance_window (begins_at DESC, id DESC);
CREATE INDEX maintenance_window_restate ON maintenance_window (changed_at)
    WHERE NOT isempty(restate);

CREATE TABLE maintenance_window_history (
    maintenance_window uuid NOT NULL REFERENCES maintenance_window (id),
    version int NOT NULL,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    action text NOT NULL CHECK (action IN ('created', 'changed', 'cancelled', 'annulled')),
    reason text NOT NULL,
    begins_at timestamptz NOT NULL,   -- as they were from then on
    ends_at timestamptz NOT NULL,
    PRIMARY KEY (maintenance_window, version)
);

-- Whether a path in the tree is that of an area, or leads through it. Its labels are ids, '-' as '_'.
CREATE FUNCTION lies_in(path ltree, area text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT area = ANY (string_to_array(replace(path::text, '_', '-'), '.'))
$$;

CREATE FUNCTION muted_by_window(causes text[]) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT EXISTS (SELECT FROM unnest(causes) AS c (cause) WHERE c.cause LIKE 'window:%')
$$;
-- What comes back when its window is over: looked through each second, so it holds nothing else.
CREATE INDEX alert_muted_by_window ON alert (id)
    WHERE (active OR latched) AND muted_by_window(suppressed_by);

-- With where it lies: a gateway in its community, a device in the finest area known.
CREATE VIEW maintenance_window_view AS
SELECT w.id, coalesce(w.area, g.community, d.area) AS place, w.area, w.gateway, w.device,
       w.begins_at, w.ends_at, w.reason, w.created_by, w.created_at, w.annulled, w.during,
       w.changed_at, w.version,
       a.path
FROM maintenance_window AS w
LEFT JOIN gateway AS g ON g.gateway = w.gateway
LEFT JOIN device AS d ON d.device = w.device
JOIN area AS a ON a.area = coalesce(w.area, g.community, d.area);
