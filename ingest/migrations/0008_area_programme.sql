-- SPDX-License-Identifier: Apache-2.0
-- An area may carry the programme of its lamps; and people see what the facility register holds.

-- What lamps below go by that have none of their own; the nearest area's holds.
ALTER TABLE area ADD COLUMN programme text;
-- `programme` stays what a lamp goes by, so that its history is kept as before; this is its own.
ALTER TABLE device ADD COLUMN own_programme text;
-- A file that named the default and one that named none can no longer be told apart.
UPDATE device SET own_programme = programme WHERE kind = 'lamp' AND programme <> 'sun';

CREATE OR REPLACE VIEW device_view AS
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
       s.since, s.at, s.received_at, s.fault, s.reading, s.lit, s.lit_at,
       d.component_code, d.owner, d.maker, d.model, d.planned_on, d.installed_on,
       d.warranty_until, d.road
FROM device AS d
JOIN area AS a ON a.area = d.area
JOIN area AS c ON c.area = d.community
JOIN gateway AS g ON g.gateway = d.gateway
LEFT JOIN device_state AS s ON s.device_id = d.id;
