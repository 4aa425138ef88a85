-- linli: contract
-- SPDX-License-Identifier: Apache-2.0
-- Response plans in versions, by area; what a case that grows asks of its alerts.

ALTER TABLE installation ADD COLUMN plans_revision bigint NOT NULL DEFAULT 0;

-- The latest version of a plan in an area is what the area says; earlier ones tell who said what.
-- The product's own are brought by always/response_plans.sql.
CREATE TABLE response_plan_version (
    severity text NOT NULL CHECK (severity IN ('critical', 'major', 'minor', 'info')),
    rule text NOT NULL,                -- its beginning; the api says which it takes
    area text REFERENCES area (area),  -- null: the product's
    version int NOT NULL CHECK (version > 0),
    revision bigint NOT NULL,          -- of all plans: what was in force when
    -- Null: back to what is inherited.
    steps jsonb CHECK (jsonb_typeof(steps) = 'array' AND jsonb_array_length(steps) > 0),
    author text NOT NULL,
    reason text NOT NULL,
    at timestamptz NOT NULL,
    UNIQUE NULLS NOT DISTINCT (severity, rule, area, version)
);
CREATE INDEX response_plan_version_area ON response_plan_version (area);
CREATE TRIGGER response_plan_version_kept
    BEFORE UPDATE OR DELETE OR TRUNCATE ON response_plan_version
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_removal();

-- What an installation wrote itself, until now in SQL, is what it says of all areas; what it left
-- as it came is known by its digest.
INSERT INTO response_plan_version (severity, rule, area, version, revision, steps, author, reason,
                                   at)
SELECT p.severity, p.rule, a.area, 1, 1, p.steps, 'linli', 'kept', now()
FROM response_plan AS p
JOIN area AS a ON a.parent IS NULL
WHERE (p.severity, p.rule) NOT IN (
    VALUES ('critical', ''), ('critical', 'alarm.duress'), ('critical', 'alarm.panic'),
           ('critical', 'alarm.fire'), ('critical', 'alarm.smoke'), ('critical', 'alarm.gas'),
           ('critical', 'bin.fire'), ('major', ''), ('major', 'alarm.fire'),
           ('major', 'alarm.smoke'), ('major', 'alarm.gas'), ('major', 'bin.fire'),
           ('major', 'alarm.fire_lane_blocked'), ('minor', ''), ('info', ''))
   OR md5(p.steps::text) <> ALL (ARRAY[
    '3b70f289c8970628328d919361782baf', 'a793c7d9422b5b87865321ccdaf89a36',
    'b1a34235677f5959bc601a22a30a960a', 'e2a8c448b587490f1b059c27212167cf',
    '55d4928c9be899c2436858de5c49161d', 'd49766efa1bae3b370e3fe8868a6c3f2',
    '571b7002fbe8bd478858e72117e97576', '0b0251ff38e6268ccfc26d106290b433'
]);
DROP TABLE response_plan;

ALTER TABLE alert_case
    -- The plans as they stood when it began.
    ADD COLUMN plans_revision bigint NOT NULL DEFAULT 1,
    -- The worst of its alerts, of these the first, and how severe that is, whatever people set:
    -- 0 critical, 3 info; one less severe when it was aborted.
    ADD COLUMN led_by uuid REFERENCES alert (id),
    ADD COLUMN rank int;
ALTER TABLE alert_case ALTER COLUMN plans_revision DROP DEFAULT;
UPDATE alert_case AS c SET led_by = l.alert, rank = l.rank
FROM (
    SELECT DISTINCT ON (r.case_id) r.case_id, r.alert, r.rank
    FROM (
        SELECT m.case_id, m.alert, m.raised_at,
               CASE WHEN t.rule = 'alarm.duress' THEN 0
                    ELSE least(3, array_position('{critical,major,minor,info}', t.severity) - 1
                                  + (m.aborted_at IS NOT NULL AND NOT m.under_threat)::int) END
                   AS rank
        FROM case_alert AS m
        JOIN alert AS t ON t.id = m.alert
    ) AS r
    ORDER BY r.case_id, r.rank, r.raised_at, r.alert
) AS l
WHERE l.case_id = c.id;
-- One that was merged into another has no alerts any more.
ALTER TABLE alert_case
    ADD CHECK (led_by IS NOT NULL AND rank IS NOT NULL OR merged_into IS NOT NULL);

-- Whether an alert is near to a case is asked of these, however many alerts it has.
ALTER TABLE case_alert ADD COLUMN gateway text, ADD COLUMN area text, ADD COLUMN device text;
UPDATE case_alert AS m SET gateway = t.gateway, area = t.area, device = t.device
FROM alert AS t WHERE t.id = m.alert;
ALTER TABLE case_alert ALTER COLUMN gateway SET NOT NULL, ALTER COLUMN area SET NOT NULL;
DROP INDEX case_alert_case;
CREATE INDEX case_alert_gateway ON case_alert (case_id, gateway);
CREATE INDEX case_alert_area ON case_alert (case_id, area);
CREATE INDEX case_alert_device ON case_alert (case_id, device) WHERE device IS NOT NULL;

-- Who watches is told of what changed a moment ago.
CREATE INDEX alert_case_changed ON alert_case (changed_at);
