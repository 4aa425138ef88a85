-- SPDX-License-Identifier: Apache-2.0
-- The product's response plans, once. What differs from what stood there becomes a version.
-- ``rules`` are rules' ids or their beginnings; "": every other. The longest that fits holds.
WITH told AS (
    SELECT s.severity, r.rule, p.plan -> 'steps' AS steps
    FROM jsonb_array_elements($plans$
[
    {"severities": ["critical"], "rules": [""], "steps": [
        {"step": "call_back", "zh-CN": "立即回拨现场核实,并保持通话", "en": "Call the place back at once and stay on the line"},
        {"step": "dispatch", "zh-CN": "派最近的民警和保安到场", "en": "Send the nearest officer and guard"},
        {"step": "watch", "zh-CN": "查看同一网格的门禁和其他报警", "en": "Look at gates and other alarms of the same cell"},
        {"step": "report_up", "zh-CN": "五分钟内报告值班领导", "en": "Report to the officer in charge within five minutes"},
        {"step": "settle", "zh-CN": "现场核实后确认案件或说明结案原因", "en": "Once seen on the spot, confirm it or say why it is closed"}
    ]},
    {"severities": ["critical"], "rules": ["alarm.duress"], "steps": [
        {"step": "keep_silent", "zh-CN": "不要回拨,不要告知物业,不要鸣笛", "en": "Do not call back, do not tell the property office, no sirens"},
        {"step": "dispatch", "zh-CN": "派两名以上便衣或静默警力到附近待命", "en": "Send two officers or more, silently, to wait close by"},
        {"step": "report_up", "zh-CN": "立即报告值班领导和分局指挥中心", "en": "Report to the officer in charge and the command centre at once"},
        {"step": "watch", "zh-CN": "查看该处门禁和报警记录,寻找人员去向", "en": "Look at gates and alarms there for who went where"},
        {"step": "settle", "zh-CN": "确认人员安全后再结案,撤防密码不作数", "en": "Close only when the people are seen to be safe; a code proves nothing"}
    ]},
    {"severities": ["critical"], "rules": ["alarm.panic"], "steps": [
        {"step": "call_back", "zh-CN": "立即回拨,问清求助原因:治安或急病", "en": "Call back at once: a crime, or somebody ill"},
        {"step": "dispatch", "zh-CN": "派最近的民警到场;急病同时通知 120", "en": "Send the nearest officer; for an illness call 120 as well"},
        {"step": "guide", "zh-CN": "通知门岗接应并引导车辆", "en": "Have the gate guard meet and guide the vehicles"},
        {"step": "settle", "zh-CN": "现场核实后确认案件或说明结案原因", "en": "Once seen on the spot, confirm it or say why it is closed"}
    ]},
    {"severities": ["critical", "major"], "rules": ["alarm.fire", "alarm.smoke", "alarm.gas", "bin.fire"], "steps": [
        {"step": "call_fire", "zh-CN": "核实火情并拨打 119", "en": "Make sure of the fire and call 119"},
        {"step": "release", "zh-CN": "开放门禁,组织楼内人员疏散", "en": "Release the gates and get people out of the building"},
        {"step": "clear_lane", "zh-CN": "清空消防通道,派人在路口引导消防车", "en": "Clear the fire lane and guide the engines from the road"},
        {"step": "dispatch", "zh-CN": "派民警到场警戒,查明有无人员受困", "en": "Send an officer to keep people away and ask who is missing"},
        {"step": "settle", "zh-CN": "由消防或现场民警核实后再结案", "en": "Close only on the word of the fire service or an officer there"}
    ]},
    {"severities": ["major"], "rules": [""], "steps": [
        {"step": "look", "zh-CN": "查看报警点位、同一网格的门禁和历史", "en": "Look at the place, the gates of its cell and what was before"},
        {"step": "call_guard", "zh-CN": "通知保安十分钟内到场查看", "en": "Have a guard there within ten minutes"},
        {"step": "dispatch", "zh-CN": "有侵入迹象时派民警到场", "en": "Send an officer where there are signs of intrusion"},
        {"step": "settle", "zh-CN": "确认案件或说明结案原因", "en": "Confirm it or say why it is closed"}
    ]},
    {"severities": ["major"], "rules": ["alarm.fire_lane_blocked"], "steps": [
        {"step": "call_owner", "zh-CN": "通知车主立即挪车", "en": "Have the owner move the car at once"},
        {"step": "call_guard", "zh-CN": "通知保安十分钟内到场,必要时拖车", "en": "Have a guard there within ten minutes, and a tow truck where needed"},
        {"step": "settle", "zh-CN": "通道恢复畅通后结案", "en": "Close once the lane is free"}
    ]},
    {"severities": ["minor"], "rules": [""], "steps": [
        {"step": "call_guard", "zh-CN": "通知保安在本班内查看", "en": "Have a guard look within this shift"},
        {"step": "repair", "zh-CN": "设备异常时通知物业报修", "en": "Where a device is at fault have it mended"},
        {"step": "settle", "zh-CN": "说明结案原因", "en": "Say why it is closed"}
    ]},
    {"severities": ["info"], "rules": [""], "steps": [
        {"step": "look", "zh-CN": "查看记录,必要时提高等级", "en": "Look at it; make it more severe where needed"},
        {"step": "settle", "zh-CN": "说明结案原因", "en": "Say why it is closed"}
    ]}
]
    $plans$) AS p (plan)
    CROSS JOIN jsonb_array_elements_text(p.plan -> 'severities') AS s (severity)
    CROSS JOIN jsonb_array_elements_text(p.plan -> 'rules') AS r (rule)
), known AS (
    SELECT DISTINCT ON (v.severity, v.rule) v.severity, v.rule, v.version, v.steps
    FROM response_plan_version AS v
    WHERE v.area IS NULL
    ORDER BY v.severity, v.rule, v.version DESC
), news AS (
    SELECT severity, rule, coalesce(known.version, 0) + 1 AS version, told.steps
    FROM told FULL JOIN known USING (severity, rule)
    WHERE told.steps IS DISTINCT FROM known.steps
), counted AS (
    UPDATE installation SET plans_revision = plans_revision + 1
    WHERE EXISTS (SELECT FROM news)
    RETURNING plans_revision
)
INSERT INTO response_plan_version (severity, rule, version, revision, steps, author, reason, at)
SELECT n.severity, n.rule, n.version, c.plans_revision, n.steps, 'linli', 'product', now()
FROM news AS n CROSS JOIN counted AS c;
