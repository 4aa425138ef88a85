-- SPDX-License-Identifier: Apache-2.0
-- What the api reads for people: one definition of a device's state, one of how an alert is named.

-- Signs page cursors: the same in every process of an installation, and lasting.
ALTER TABLE installation ADD COLUMN cursor_key bytea NOT NULL
    DEFAULT decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex');

-- Narrowing to an area finds its devices without reading all.
CREATE INDEX device_area ON device (area);

CREATE VIEW device_view AS
SELECT d.id, d.device, d.kind, d.gateway, d.community, d.area, d.name, d.name_en, d.life,
       d.in_service_from, d.reporting_period_s, d.rated_power_w, d.programme,
       a.path,
       c.path AS community_path,
       CASE
           WHEN d.life = 'maintenance' THEN 'maintenance'
           WHEN s.device_id IS NULL THEN 'unknown'
           WHEN g.silent OR s.silent THEN 'offline'
           WHEN s.fault IS NOT NULL THEN 'fault'
           ELSE 'normal'
       END AS state,
       s.since, s.at, s.received_at, s.fault, s.reading, s.lit, s.lit_at
FROM device AS d
JOIN area AS a ON a.area = d.area
JOIN area AS c ON c.area = d.community
JOIN gateway AS g ON g.gateway = d.gateway
LEFT JOIN device_state AS s ON s.device_id = d.id;

CREATE VIEW alert_view AS
SELECT t.id, t.rule, t.severity, coalesce(t.device, t.gateway) AS subject, t.kind, t.device,
       t.gateway, t.area, t.community,
       coalesce(d.name, g.name, '') AS name,
       d.name_en,
       t.params, t.active, t.acknowledged, t.raised_at, t.received_at, t.cleared_at,
       t.acknowledged_at, t.acknowledged_by, t.note, t.late, t.version, t.changed_at,
       a.path
FROM alert AS t
JOIN area AS a ON a.area = t.area
LEFT JOIN device AS d ON d.device = t.device
LEFT JOIN gateway AS g ON g.gateway = t.gateway;

-- How much time a set of spans covers, in microseconds; exact.
CREATE FUNCTION covered_us(spans tstzmultirange) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    SELECT coalesce(sum(extract(epoch FROM upper(span) - lower(span)) * 1000000), 0)::bigint
    FROM unnest(spans) AS span
);
