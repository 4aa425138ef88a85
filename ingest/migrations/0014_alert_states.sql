-- SPDX-License-Identifier: Apache-2.0
-- An alert is what people see of a rule on one subject; each time its condition held is an
-- occurrence of it. Its flags are orthogonal (OPC UA Part 9, ISA-18.2).

DROP INDEX alert_active;
DROP INDEX alert_occurrence;

-- Each time a condition held: the times, and what was seen. Told twice it is one.
CREATE TABLE alert_occurrence (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    alert uuid NOT NULL,
    rule text NOT NULL,
    gateway text NOT NULL,
    device text REFERENCES device (device),
    key text NOT NULL DEFAULT '',      -- tells them apart (an alarm's occurrence id, a stream)
    params jsonb NOT NULL DEFAULT '{}',
    active boolean NOT NULL,
    late boolean NOT NULL DEFAULT false,  -- raised from readings received long after they were made
    raised_at timestamptz NOT NULL,    -- device time
    received_at timestamptz NOT NULL,
    cleared_at timestamptz,            -- device time
    acknowledged_at timestamptz
);
INSERT INTO alert_occurrence (alert, rule, gateway, device, key, params, active, late, raised_at,
                              received_at, cleared_at, acknowledged_at)
SELECT id, rule, gateway, device, key, params, active, late, raised_at, received_at, cleared_at,
       acknowledged_at
FROM alert
ORDER BY raised_at, id;
-- A condition stands at most once: a crash can neither lose nor double an alert.
CREATE UNIQUE INDEX alert_occurrence_active
    ON alert_occurrence (rule, gateway, coalesce(device, ''), key) WHERE active;
-- An alarm's occurrence is one for ever, however often it is told.
CREATE UNIQUE INDEX alert_occurrence_key ON alert_occurrence (rule, device, key)
    WHERE key <> '' AND rule LIKE 'alarm.%';
CREATE INDEX alert_occurrence_alert ON alert_occurrence (alert, raised_at);
CREATE INDEX alert_occurrence_received ON alert_occurrence (received_at);
-- How many alarms there were, how long people took; repair clocks.
CREATE INDEX alert_occurrence_alarm ON alert_occurrence (received_at)
    WHERE rule LIKE 'alarm.%' OR rule = 'gate.forced';
CREATE INDEX alert_occurrence_fault ON alert_occurrence (raised_at) WHERE rule = 'device.fault';
DROP INDEX alert_received;
DROP INDEX alert_fault;

ALTER TABLE alert
    DROP COLUMN key,
    -- Danger to life: no rule of hygiene and no shelf ever hides it.
    ADD COLUMN life_safety boolean NOT NULL DEFAULT false,
    -- How many of its occurrences are active; how often it was raised after the first time, and
    -- when it was last (device time).
    ADD COLUMN standing int NOT NULL DEFAULT 0,
    ADD COLUMN repeats int NOT NULL DEFAULT 0,
    ADD COLUMN last_raised_at timestamptz,
    -- Its condition ended, but it stays until a person resets it.
    ADD COLUMN latched boolean NOT NULL DEFAULT false,
    -- Why it is muted by design: a gateway that is silent, a window of maintenance, a flood.
    ADD COLUMN suppressed_by text[] NOT NULL DEFAULT '{}',
    -- Put aside by a person for a time, or by hygiene: never without an end.
    ADD COLUMN shelved_until timestamptz,
    ADD COLUMN shelved_once boolean NOT NULL DEFAULT false,
    ADD COLUMN shelved_by text,
    ADD COLUMN shelved_reason text,
    ADD COLUMN out_of_service_until timestamptz,
    ADD COLUMN out_of_service_by text,
    ADD COLUMN out_of_service_reason text,
    ADD COLUMN quiet boolean GENERATED ALWAYS AS (
        NOT life_safety AND (
            shelved_until IS NOT NULL
            OR out_of_service_until IS NOT NULL
            OR cardinality(suppressed_by) > 0
        )
    ) STORED;
UPDATE alert SET standing = active::int, last_raised_at = raised_at,
    life_safety = rule IN ('alarm.panic', 'alarm.smoke', 'alarm.gas', 'alarm.fire', 'alarm.duress',
                           'bin.fire');
ALTER TABLE alert
    ALTER COLUMN last_raised_at SET NOT NULL,
    ADD CONSTRAINT alert_standing CHECK (standing >= 0 AND active = (standing > 0)),
    ADD CONSTRAINT alert_shelf CHECK ((shelved_until IS NULL) = (shelved_by IS NULL)
                                      AND shelved_until < 'infinity'),
    ADD CONSTRAINT alert_out_of_service
        CHECK ((out_of_service_until IS NULL) = (out_of_service_by IS NULL)
               AND out_of_service_until < 'infinity');
-- The one that a further occurrence belongs to, or not any more.
CREATE INDEX alert_point ON alert (rule, gateway, coalesce(device, ''), last_raised_at);
-- What ends by time alone: many open alerts cost nothing while none is due.
CREATE INDEX alert_due ON alert (least(shelved_until, out_of_service_until))
    WHERE shelved_until IS NOT NULL OR out_of_service_until IS NOT NULL;
-- What of it hygiene must look at: few among many.
CREATE INDEX alert_suppressed ON alert (gateway) WHERE suppressed_by <> '{}';
CREATE INDEX alert_gateway_open ON alert (gateway) WHERE active OR NOT acknowledged;
DROP INDEX alert_open;
CREATE INDEX alert_open ON alert (community, raised_at)
    WHERE active OR latched OR NOT acknowledged;
-- An occurrence is written first: it decides whether there is anything to tell.
ALTER TABLE alert_occurrence ADD CONSTRAINT alert_occurrence_of
    FOREIGN KEY (alert) REFERENCES alert (id) DEFERRABLE INITIALLY DEFERRED;

ALTER TABLE alert_history
    DROP CONSTRAINT alert_history_action_check,
    ADD CONSTRAINT alert_history_action_check CHECK (action IN (
        'raised', 'raised_again', 'cleared', 'acknowledged', 'reset', 'noted',
        'shelved', 'unshelved', 'suppressed', 'unsuppressed', 'out_of_service', 'in_service',
        'escalated'
    )),
    -- The occurrence it is about, where it is about one.
    ADD COLUMN occurrence bigint REFERENCES alert_occurrence (id),
    -- What the action says: until when, by what it is muted.
    ADD COLUMN params jsonb NOT NULL DEFAULT '{}';
UPDATE alert_history AS h SET occurrence = o.id
FROM alert_occurrence AS o
WHERE o.alert = h.alert AND h.action IN ('raised', 'cleared');

-- A condition of which the off-delay runs is pending too.
ALTER TABLE alert_pending ADD COLUMN ending boolean NOT NULL DEFAULT false;

DROP VIEW alert_view;
CREATE VIEW alert_view AS
SELECT t.id, t.rule, t.severity, coalesce(t.device, t.gateway) AS subject, t.kind, t.device,
       t.gateway, t.area, t.community,
       coalesce(d.name, g.name, '') AS name,
       d.name_en,
       t.params, t.active, t.acknowledged, t.raised_at, t.received_at, t.cleared_at,
       t.acknowledged_at, t.acknowledged_by, t.note, t.late, t.version, t.changed_at,
       t.life_safety, t.standing, t.repeats, t.last_raised_at, t.latched, t.suppressed_by,
       t.shelved_until, t.shelved_once, t.shelved_by, t.shelved_reason,
       t.out_of_service_until, t.out_of_service_by, t.out_of_service_reason, t.quiet,
       a.path
FROM alert AS t
JOIN area AS a ON a.area = t.area
LEFT JOIN device AS d ON d.device = t.device
LEFT JOIN gateway AS g ON g.gateway = t.gateway;
