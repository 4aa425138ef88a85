-- SPDX-License-Identifier: Apache-2.0
-- What an officer confirmed: the record that rates are computed from. Kept for ever.

CREATE TABLE incident (
    id uuid PRIMARY KEY,
    category text NOT NULL CHECK (category IN
        ('burglary', 'vehicle_theft', 'other_theft', 'fraud', 'affray', 'fire', 'medical', 'other')),
    criminal boolean NOT NULL GENERATED ALWAYS AS
        (category IN ('burglary', 'vehicle_theft', 'other_theft', 'fraud', 'affray')) STORED,
    area text NOT NULL REFERENCES area (area),       -- the finest known: cell or community
    community text NOT NULL REFERENCES area (area),  -- where that area belonged then
    occurred_at timestamptz NOT NULL CHECK (occurred_at >= '2000-01-01T00:00:00Z'),
    disposition text NOT NULL DEFAULT 'open' CHECK (disposition IN
        ('open', 'confirmed', 'false_alarm', 'test', 'duplicate', 'withdrawn')),
    alert uuid REFERENCES alert (id),                -- what told of it; null: a person did
    confirmed_by text,
    confirmed_at timestamptz,
    note text,
    reported_by text NOT NULL,
    reported_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    version int NOT NULL DEFAULT 1,
    CHECK ((disposition = 'confirmed') = (confirmed_by IS NOT NULL)),
    CHECK ((confirmed_by IS NULL) = (confirmed_at IS NULL))
);
CREATE INDEX incident_occurred ON incident (occurred_at DESC, id DESC);
CREATE INDEX incident_community ON incident (community, occurred_at);
-- An alert tells of one incident; others about it are its duplicates.
CREATE UNIQUE INDEX incident_alert ON incident (alert)
    WHERE alert IS NOT NULL AND disposition NOT IN ('duplicate', 'withdrawn');

CREATE TABLE incident_history (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    incident uuid NOT NULL REFERENCES incident (id),
    at timestamptz NOT NULL,
    actor text NOT NULL,
    action text NOT NULL CHECK (action IN ('reported', 'changed')),
    reason text NOT NULL,
    changes jsonb NOT NULL,            -- field: [from, to]
    version int NOT NULL,              -- of the record after it
    UNIQUE (incident, version)
);

-- Whatever code or person asks for it: a record is settled, never removed.
CREATE FUNCTION refuse_removal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never removed or rewritten', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER incident_kept BEFORE DELETE OR TRUNCATE ON incident
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_removal();
CREATE TRIGGER incident_history_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON incident_history
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_removal();

-- How many alarms there were, and how long people took: asked by when they reached us.
CREATE INDEX alert_received ON alert (community, received_at)
    WHERE rule LIKE 'alarm.%' OR rule = 'gate.forced';
