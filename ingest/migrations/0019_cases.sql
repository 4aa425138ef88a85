-- SPDX-License-Identifier: Apache-2.0
-- A case is what an officer works on: alerts that tell of one thing, what was found, by whom.

CREATE TABLE alert_case (
    id uuid PRIMARY KEY,
    alert uuid NOT NULL REFERENCES alert (id),  -- the one that it began with
    community text NOT NULL REFERENCES area (area),
    -- The cell of all its alerts, or else their community: who may see it.
    area text NOT NULL REFERENCES area (area),
    nature text NOT NULL CHECK (nature IN ('duress', 'fire', 'crime', 'nuisance')),
    rule text NOT NULL,                -- of its worst alert: which response plan fits
    severity text NOT NULL CHECK (severity IN ('critical', 'major', 'minor', 'info')),
    severity_set text CHECK (severity_set IN ('critical', 'major', 'minor', 'info')),  -- by a person
    aborted boolean NOT NULL DEFAULT false,  -- a valid code was entered after one of its alerts
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'confirmed', 'closed')),
    outcome text CHECK (outcome IN
        ('false_alarm', 'test', 'duplicate', 'equipment_fault', 'withdrawn')),
    duplicate_of uuid REFERENCES alert_case (id),
    merged_into uuid REFERENCES alert_case (id),
    split_from uuid REFERENCES alert_case (id),
    assignee text,
    incident uuid UNIQUE REFERENCES incident (id),  -- the record of what was found
    first_at timestamptz NOT NULL,     -- device time, of its alerts
    last_at timestamptz NOT NULL,
    opened_at timestamptz NOT NULL,    -- ours
    changed_at timestamptz NOT NULL,
    version int NOT NULL DEFAULT 1,
    CHECK ((state = 'closed') = (outcome IS NOT NULL)),
    CHECK (duplicate_of IS NULL OR outcome = 'duplicate'),
    CHECK (merged_into IS NULL OR merged_into = duplicate_of)
);
-- What an alert may still join.
CREATE INDEX alert_case_near ON alert_case (community, last_at) WHERE state <> 'closed';
CREATE INDEX alert_case_open ON alert_case (first_at DESC, id DESC) WHERE state = 'open';
CREATE INDEX alert_case_listed ON alert_case (first_at DESC, id DESC);

-- An alert is in one case at most; how it came there and from where, the history says.
CREATE TABLE case_alert (
    alert uuid PRIMARY KEY REFERENCES alert (id),
    case_id uuid NOT NULL REFERENCES alert_case (id),
    raised_at timestamptz NOT NULL,    -- device time, of what brought it in
    joined_at timestamptz NOT NULL,    -- ours
    reason text NOT NULL CHECK (reason IN
        ('opened', 'same_device', 'same_cell', 'same_gateway', 'merged', 'split_off')),
    aborted_at timestamptz,            -- device time: a valid code was entered after it
    under_threat boolean NOT NULL DEFAULT false  -- that code is worth nothing
);
CREATE INDEX case_alert_case ON case_alert (case_id);

CREATE TABLE case_history (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    case_id uuid NOT NULL REFERENCES alert_case (id),
    at timestamptz NOT NULL,
    actor text NOT NULL,               -- 'rule' or a person
    action text NOT NULL CHECK (action IN (
        'opened', 'split_off', 'joined', 'raised_again', 'aborted', 'threatened', 'confirmed',
        'closed', 'reopened', 'assigned', 'rated', 'noted', 'step_done', 'took', 'merged', 'split'
    )),
    reason text NOT NULL,
    note text,
    params jsonb NOT NULL DEFAULT '{}',
    version int NOT NULL,              -- of the case after it
    UNIQUE (case_id, version)
);
CREATE TRIGGER case_history_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON case_history
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_removal();

-- What to do, in order. The plan whose rule is the longest beginning of the case's rule holds.
CREATE TABLE response_plan (
    severity text NOT NULL CHECK (severity IN ('critical', 'major', 'minor', 'info')),
    rule text NOT NULL DEFAULT '',     -- a rule's id or its beginning; '': every other
    steps jsonb NOT NULL CHECK (jsonb_typeof(steps) = 'array' AND jsonb_array_length(steps) > 0),
    PRIMARY KEY (severity, rule)
);
CREATE TABLE case_step (
    case_id uuid NOT NULL REFERENCES alert_case (id),
    step text NOT NULL,
    done_by text NOT NULL,
    done_at timestamptz NOT NULL,
    note text,
    PRIMARY KEY (case_id, step)
);

-- Who hands over to whom, and what was open then.
CREATE TABLE shift (
    id uuid PRIMARY KEY,
    area text NOT NULL REFERENCES area (area),
    given_by text NOT NULL,
    given_to text NOT NULL CHECK (given_to <> given_by),
    note text,
    cases jsonb NOT NULL,              -- as they were: case, severity, assignee, version
    given_at timestamptz NOT NULL,
    accepted_at timestamptz CHECK (accepted_at >= given_at)
);
CREATE INDEX shift_given ON shift (given_at DESC, id DESC);

-- Alarms that nobody has settled yet: each a case, so that none is forgotten.
WITH made AS (
    INSERT INTO alert_case (id, alert, community, area, nature, rule, severity, incident, first_at,
                            last_at, opened_at, changed_at)
    SELECT gen_random_uuid(), t.id, t.community, t.area,
           CASE WHEN t.rule = 'alarm.duress' THEN 'duress'
                WHEN t.rule IN ('alarm.smoke', 'alarm.gas', 'alarm.fire', 'bin.fire') THEN 'fire'
                WHEN t.rule IN ('alarm.tamper', 'alarm.fire_lane_blocked', 'alarm.water')
                    THEN 'nuisance'
                ELSE 'crime' END,
           t.rule, CASE WHEN t.rule = 'alarm.duress' THEN 'critical' ELSE t.severity END,
           (SELECT i.id FROM incident AS i WHERE i.alert = t.id AND i.disposition = 'open'),
           t.raised_at, t.last_raised_at, t.received_at, now()
    FROM alert AS t
    WHERE (t.active OR t.latched OR NOT t.acknowledged)
      AND (t.rule LIKE 'alarm.%' OR t.rule IN ('gate.forced', 'bin.fire'))
      AND NOT EXISTS (SELECT FROM incident AS i
                      WHERE i.alert = t.id AND i.disposition <> 'open')
    RETURNING id, alert, first_at, opened_at
), member AS (
    INSERT INTO case_alert (alert, case_id, raised_at, joined_at, reason)
    SELECT alert, id, first_at, opened_at, 'opened' FROM made
)
INSERT INTO case_history (case_id, at, actor, action, reason, params, version)
SELECT id, first_at, 'rule', 'opened', 'alert_raised', jsonb_build_object('alert', alert), 1
FROM made;

-- What settled an alert, dismissed or not.
CREATE INDEX incident_told_by ON incident (alert) WHERE alert IS NOT NULL;

INSERT INTO response_plan (severity, rule, steps)
SELECT p.severity, p.rule, p.steps::jsonb
FROM (VALUES
    ('critical', '', '[
        {"step": "call_back", "zh-CN": "立即回拨现场核实,并保持通话", "en": "Call the place back at once and stay on the line"},
        {"step": "dispatch", "zh-CN": "派最近的民警和保安到场", "en": "Send the nearest officer and guard"},
        {"step": "watch", "zh-CN": "查看同一网格的门禁和其他报警", "en": "Look at gates and other alarms of the same cell"},
        {"step": "report_up", "zh-CN": "五分钟内报告值班领导", "en": "Report to the officer in charge within five minutes"},
        {"step": "settle", "zh-CN": "现场核实后确认案件或说明结案原因", "en": "Once seen on the spot, confirm it or say why it is closed"}
    ]'),
    ('critical', 'alarm.duress', '[
        {"step": "keep_silent", "zh-CN": "不要回拨,不要告知物业,不要鸣笛", "en": "Do not call back, do not tell the property office, no sirens"},
        {"step": "dispatch", "zh-CN": "派两名以上便衣或静默警力到附近待命", "en": "Send two officers or more, silently, to wait close by"},
        {"step": "report_up", "zh-CN": "立即报告值班领导和分局指挥中心", "en": "Report to the officer in charge and the command centre at once"},
        {"step": "watch", "zh-CN": "查看该处门禁和报警记录,寻找人员去向", "en": "Look at gates and alarms there for who went where"},
        {"step": "settle", "zh-CN": "确认人员安全后再结案,撤防密码不作数", "en": "Close only when the people are seen to be safe; a code proves nothing"}
    ]'),
    ('critical', 'alarm.panic', '[
        {"step": "call_back", "zh-CN": "立即回拨,问清求助原因:治安或急病", "en": "Call back at once: a crime, or somebody ill"},
        {"step": "dispatch", "zh-CN": "派最近的民警到场;急病同时通知 120", "en": "Send the nearest officer; for an illness call 120 as well"},
        {"step": "guide", "zh-CN": "通知门岗接应并引导车辆", "en": "Have the gate guard meet and guide the vehicles"},
        {"step": "settle", "zh-CN": "现场核实后确认案件或说明结案原因", "en": "Once seen on the spot, confirm it or say why it is closed"}
    ]'),
    ('major', '', '[
        {"step": "look", "zh-CN": "查看报警点位、同一网格的门禁和历史", "en": "Look at the place, the gates of its cell and what was before"},
        {"step": "call_guard", "zh-CN": "通知保安十分钟内到场查看", "en": "Have a guard there within ten minutes"},
        {"step": "dispatch", "zh-CN": "有侵入迹象时派民警到场", "en": "Send an officer where there are signs of intrusion"},
        {"step": "settle", "zh-CN": "确认案件或说明结案原因", "en": "Confirm it or say why it is closed"}
    ]'),
    ('minor', '', '[
        {"step": "call_guard", "zh-CN": "通知保安在本班内查看", "en": "Have a guard look within this shift"},
        {"step": "repair", "zh-CN": "设备异常时通知物业报修", "en": "Where a device is at fault have it mended"},
        {"step": "settle", "zh-CN": "说明结案原因", "en": "Say why it is closed"}
    ]'),
    ('info', '', '[
        {"step": "look", "zh-CN": "查看记录,必要时提高等级", "en": "Look at it; make it more severe where needed"},
        {"step": "settle", "zh-CN": "说明结案原因", "en": "Say why it is closed"}
    ]')
) AS p (severity, rule, steps)
UNION ALL
SELECT s.severity, r.rule, '[
        {"step": "call_fire", "zh-CN": "核实火情并拨打 119", "en": "Make sure of the fire and call 119"},
        {"step": "release", "zh-CN": "开放门禁,组织楼内人员疏散", "en": "Release the gates and get people out of the building"},
        {"step": "clear_lane", "zh-CN": "清空消防通道,派人在路口引导消防车", "en": "Clear the fire lane and guide the engines from the road"},
        {"step": "dispatch", "zh-CN": "派民警到场警戒,查明有无人员受困", "en": "Send an officer to keep people away and ask who is missing"},
        {"step": "settle", "zh-CN": "由消防或现场民警核实后再结案", "en": "Close only on the word of the fire service or an officer there"}
    ]'::jsonb
FROM (VALUES ('critical'), ('major')) AS s (severity)
CROSS JOIN (VALUES ('alarm.fire'), ('alarm.smoke'), ('alarm.gas'), ('bin.fire')) AS r (rule)
-- A blocked fire lane is no fire.
UNION ALL
SELECT 'major', 'alarm.fire_lane_blocked', '[
        {"step": "call_owner", "zh-CN": "通知车主立即挪车", "en": "Have the owner move the car at once"},
        {"step": "call_guard", "zh-CN": "通知保安十分钟内到场,必要时拖车", "en": "Have a guard there within ten minutes, and a tow truck where needed"},
        {"step": "settle", "zh-CN": "通道恢复畅通后结案", "en": "Close once the lane is free"}
    ]'::jsonb;
