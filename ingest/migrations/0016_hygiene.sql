-- SPDX-License-Identifier: Apache-2.0
-- Alarm hygiene: what it has not looked at yet, and which lamps hang on one circuit.

-- A queue in the rows themselves: raising and clearing write no more than before, and while there
-- is nothing to look at the index is empty. Old ones need no look.
ALTER TABLE alert_occurrence
    ADD COLUMN looked boolean NOT NULL DEFAULT true,
    -- Whether it was kept from the desk when it was raised; null: not looked at yet.
    ADD COLUMN quiet boolean;
ALTER TABLE alert_occurrence ALTER COLUMN looked SET DEFAULT false;
CREATE INDEX alert_occurrence_news ON alert_occurrence (id) WHERE NOT looked;

-- What may have to be muted, or brought back, when its gateway falls silent or is heard again.
DROP INDEX alert_gateway_open;
CREATE INDEX alert_gateway_standing ON alert (gateway) WHERE active OR latched;
CREATE INDEX alert_community_standing ON alert (community) WHERE active OR latched;

-- What stood at some moment.
CREATE INDEX alert_occurrence_cleared ON alert_occurrence (cleared_at)
    WHERE cleared_at IS NOT NULL;
-- How often alerts were put aside or muted in a time.
CREATE INDEX alert_history_aside ON alert_history (at) WHERE action IN ('shelved', 'suppressed');

-- Lamps that one switch lights, by the name of their circuit in the community.
ALTER TABLE device ADD COLUMN circuit text CHECK (circuit ~ '^[0-9A-Za-z][0-9A-Za-z./_-]{0,63}$');
CREATE INDEX device_circuit ON device (community, circuit) WHERE circuit IS NOT NULL;

-- A flood is a community's: its name is shown.
CREATE OR REPLACE VIEW alert_view AS
SELECT t.id, t.rule, t.severity, coalesce(t.device, t.gateway) AS subject, t.kind, t.device,
       t.gateway, t.area, t.community,
       coalesce(d.name, CASE WHEN t.kind = 'community' THEN a.name ELSE g.name END, '') AS name,
       coalesce(d.name_en, CASE WHEN t.kind = 'community' THEN a.name_en END) AS name_en,
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
