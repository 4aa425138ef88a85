# SPDX-License-Identifier: Apache-2.0
"""Every error as ``application/problem+json`` (RFC 9457), titled in the reader's language.

Codes travel, sentences do not: a client acts on ``code``, a person reads ``title``. ``instance``
is the request id, which the log names as well.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, cast

import psycopg
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from psycopg_pool import PoolTimeout
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from api.errors import FieldError, Problem

log = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
# One request can be wrong in thousands of ways; nobody reads them all.
ERRORS_MAX: Final = 20
Language = Literal["zh-CN", "en"]

# code: status, title in zh-CN, title in en.
KINDS: Final[Mapping[str, tuple[int, str, str]]] = {
    "request.malformed": (400, "请求格式有误", "The request is malformed"),
    "body.missing": (400, "请求缺少正文", "The request has no body"),
    "body.not_json": (400, "请求正文不是有效的 JSON", "The body is not valid JSON"),
    "body.not_multipart": (
        400,
        "请求正文须为含文件的 multipart/form-data",
        "The body must be files as multipart/form-data",
    ),
    "cursor.invalid": (400, "分页游标无效，请从第一页重新开始", "The cursor is not valid here"),
    "idempotency.invalid": (
        400,
        "Idempotency-Key 须为 1 至 255 个可见的 ASCII 字符",
        "Idempotency-Key must be 1 to 255 printable ASCII characters",
    ),
    "if_match.invalid": (400, "If-Match 须为版本号", "If-Match must be a version number"),
    "session.required": (401, "请先登录", "Log in first"),
    "credentials.invalid": (401, "用户名或密码错误", "User name or password is wrong"),
    "csrf": (403, "请求来自其他网站，已拒绝", "Refused: the request comes from another site"),
    "role.forbidden": (403, "您的角色无权执行此操作", "Your role does not allow this"),
    "area.forbidden": (403, "仅限负责全部区域的管理员", "Only for an admin of all areas"),
    "address.forbidden": (403, "此地址不可访问", "Not allowed from this address"),
    "window.inherited": (
        403,
        "该检修窗口由上级区域设定，不可在此更改",
        "The window was set for a larger area and cannot be changed here",
    ),
    "not_found": (404, "未找到", "Not found"),
    "method.not_allowed": (405, "不支持该请求方法", "The method is not allowed here"),
    "not_acceptable": (406, "无法提供所要求的格式", "No acceptable format can be given"),
    "alert.acknowledged": (409, "该告警已被确认", "The alert is already acknowledged"),
    "alert.active": (
        409,
        "该告警仍在持续，不能复位",
        "The alert is active still: it cannot be reset",
    ),
    "alert.already": (409, "该告警已是所要求的状态", "The alert is so already"),
    "alert.life_safety": (
        409,
        "危及生命的告警不得搁置",
        "An alert of danger to life cannot be put aside",
    ),
    "idempotency.in_progress": (
        409,
        "相同 Idempotency-Key 的请求正在处理",
        "A request with this Idempotency-Key is under way",
    ),
    "incident.alert_taken": (409, "该告警已有案件记录", "The alert has an incident already"),
    "incident.unchanged": (409, "案件记录没有变化", "Nothing about the incident would change"),
    "case.unchanged": (409, "该警情已处于所要求的状态", "The case is so already"),
    "case.merged": (409, "该警情已并入其他警情", "The case was merged into another"),
    "case.closed": (409, "警情已结案，请先重新打开", "The case is closed; reopen it first"),
    "case.duress": (
        409,
        "胁迫报警须单独立案并保持最高等级",
        "Duress is a case of its own and stays critical",
    ),
    "shift.accepted": (409, "该班次已交接", "The shift is accepted already"),
    "window.over": (
        409,
        "该检修窗口已结束或已撤销；已过去的时间仅管理员可事后更改（afterwards）",
        "The window is over or called off; only an admin may change the past, with afterwards",
    ),
    "window.too_many": (
        409,
        "该处未结束的检修窗口过多",
        "There are too many windows there that are not over",
    ),
    "window.unchanged": (409, "检修窗口没有变化", "Nothing about the window would change"),
    "rule.needed_below": (
        409,
        "下级区域仍在使用这条规则",
        "An area below still builds on this rule",
    ),
    "rule.too_many": (409, "自定义规则过多", "There are too many rules of your own"),
    "rule.life_safety": (
        403,
        "涉及生命安全的规则仅限全市管理员更改",
        "Rules on danger to life are changed by a city's admin alone",
    ),
    "plan.life_safety": (
        403,
        "涉及生命安全的处置预案仅限全市管理员更改",
        "Response plans for danger to life are changed by a city's admin alone",
    ),
    "plan.changed": (412, "该处置预案已被他人更改", "The plan was changed by someone else"),
    "rule.changed": (412, "该规则已被他人更改", "The rule was changed by someone else"),
    "alert.changed": (412, "该告警已被他人更改", "The alert was changed by someone else"),
    "case.changed": (412, "该警情已被他人更改", "The case was changed by someone else"),
    "incident.changed": (412, "该案件已被他人更改", "The incident was changed by someone else"),
    "window.changed": (412, "该检修窗口已被他人更改", "The window was changed by someone else"),
    "notification.too_many": (
        409,
        "渠道数量已达上限",
        "There are as many channels as there may be",
    ),
    "webhook.secrets": (
        409,
        "仍有过多旧密钥在用，请稍后再换，或将 overlap_s 设为 0",
        "Too many former secrets still sign; wait, or replace them with overlap_s 0",
    ),
    "idempotency.too_many": (
        429,
        "24 小时内使用的 Idempotency-Key 已达上限",
        "As many Idempotency-Keys were used within 24 h as are kept for one user",
    ),
    "notification.changed": (412, "该设置已被他人更改", "The setting was changed meanwhile"),
    "files.too_many": (413, "文件过多", "There are too many files"),
    "body.too_large": (413, "请求正文过大", "The body is too large"),
    "address.too_long": (414, "请求地址过长", "The address is too long"),
    "content_type.unsupported": (415, "正文格式不符合要求", "The body has another format"),
    "idempotency.reused": (
        422,
        "此 Idempotency-Key 已用于另一请求",
        "This Idempotency-Key was used for another request",
    ),
    "registry.refused": (
        422,
        "登记文件有误，未作任何更改",
        "The registry files have mistakes; nothing was changed",
    ),
    "request.invalid": (422, "请求参数不符合要求", "The request does not fit"),
    "if_match.missing": (
        428,
        "须以 If-Match 指明所见版本",
        "Say in If-Match which version was seen",
    ),
    "headers.too_large": (431, "请求头过大", "The headers are too large"),
    "session.too_many": (429, "登录尝试过多，请稍后再试", "Too many log-in attempts, try later"),
    "rule.trying": (
        429,
        "正在试运行另一条规则，请稍后再试",
        "Another rule is being tried out, try later",
    ),
    "notification.tests": (
        429,
        "测试消息发送过于频繁，请稍后再试",
        "Too many test messages, try later",
    ),
    "stream.too_many": (429, "打开的实时连接过多", "Too many open live streams"),
    "internal": (500, "服务器内部错误", "Internal error"),
    "unavailable": (503, "服务暂时不可用，请稍后重试", "Not available right now, try again"),
}
_BY_STATUS: Final = {
    400: "request.malformed",
    401: "session.required",
    403: "role.forbidden",
    404: "not_found",
    405: "method.not_allowed",
    406: "not_acceptable",
    413: "body.too_large",
    415: "content_type.unsupported",
    422: "request.invalid",
    503: "unavailable",
}

# code: message in zh-CN, in en; braces take what `FieldError.bounds` holds.
_MESSAGES: Final[Mapping[str, tuple[str, str]]] = {
    "field.missing": ("必填", "is required"),
    "field.unknown": ("未知字段", "is not known"),
    "field.type": ("类型不符", "has the wrong type"),
    "field.enum": ("须为以下之一：{allowed}", "must be one of {allowed}"),
    "field.unfitting": ("与其他参数不能同时使用", "does not go with the other parameters"),
    "value.range": ("超出范围", "is out of range"),
    "value.range:min": ("须不小于 {min}", "must be {min} or more"),
    "value.range:max": ("须不大于 {max}", "must be {max} or less"),
    "text.too_short": ("至少 {min} 个字符", "must have at least {min} characters"),
    "text.too_long": ("最多 {max} 个字符", "must have at most {max} characters"),
    "list.too_short": ("至少 {min} 项", "must have at least {min} items"),
    "list.too_long": ("最多 {max} 项", "must have at most {max} items"),
    "text.invalid": ("含有不允许的字符", "contains characters that are not allowed"),
    "time.naive": ("时间须带时区", "must carry a time zone"),
    "time.format": ("须为 RFC 3339 时间", "must be an RFC 3339 time"),
    "date.format": ("须为 YYYY-MM-DD 日期", "must be a date, YYYY-MM-DD"),
    "time.future": ("不得晚于当前时间", "must not lie in the future"),
    "time.endless": ("须有结束时间，不晚于 {max}", "must have an end, {max} at the latest"),
    "time.past": ("须晚于 {min}", "must be later than {min}"),
    "time.too_long": ("不得晚于 {max}", "must not be later than {max}"),
    "time.too_early": ("不得早于 {min}", "must not be before {min}"),
    "time.unfitting": (
        "须在告警前后一天之内，即 {min} 至 {max}",
        "must be within a day of the alert, from {min} to {max}",
    ),
    "area.unknown": ("没有这样的社区或网格", "is not a community or cell you can see"),
    "area.unfitting": (
        "须在告警所在社区 {community} 内",
        "must be in the alert's community, {community}",
    ),
    "area.not_community": ("须为社区", "must be a community"),
    "area.too_large": (
        "设备超过 {max_devices} 台，请选下级区域",
        "has more than {max_devices} devices, ask for areas below it",
    ),
    "alert.unknown": ("没有这样的告警", "is not an alert you can see"),
    "alert.pinned": (
        "案件记录所依据的告警不能分出",
        "the alert that its incident record stands for cannot leave",
    ),
    "alerts.none_left": ("至少须留下一条告警", "at least one alert must stay"),
    "case.unknown": ("没有这样的警情", "is not a case you can see"),
    "case.same": ("不能是该警情本身", "must be another case"),
    "case.duplicate": ("该警情本身是重复警情", "is a duplicate itself"),
    "case.elsewhere": ("须为同一社区的警情", "must be a case of the same community"),
    "plan.rule": (
        "不是会形成警情的规则或其开头",
        "is no rule that makes cases, nor the beginning of one",
    ),
    "step.twice": ("步骤名重复", "names a step twice"),
    "person.unfit": (
        "须为负责该区域的在职民警或管理员",
        "must be an active officer or admin who has the area",
    ),
    "node.unknown": ("没有这样的区域、网关或设备", "is nothing you can see"),
    "window.past": (
        "不得早于 {min}；已过去的时间仅管理员可事后认可（afterwards）",
        "must not be before {min}; only an admin may accept the past, with afterwards",
    ),
    "window.too_old": ("不得早于 {min}", "must not be before {min}"),
    "window.too_far": ("不得晚于 {max}", "must not be after {max}"),
    "range.reversed": ("结束须晚于开始", "must end after it begins"),
    "range.too_long": ("最长 {max_days} 天", "must not exceed {max_days} days"),
    "recipient.unknown": (
        "没有这样的接收人，或其不负责该区域",
        "is nobody there, or nobody who may see the area",
    ),
    "url.invalid": ("不是有效的地址", "is not a valid address"),
    "url.insecure": ("须为 https 地址", "must be an https address"),
    "url.private": ("不得为内部网络地址", "must not be an address of a private network"),
    "url.unknown_host": ("无法解析主机名", "names a host that nobody knows"),
    "url.scheme": ("不支持该渠道", "is of a service that is not supported"),
    "email.invalid": ("不是有效的电子邮件地址", "is not a valid e-mail address"),
    "number.invalid": ("不是有效的电话号码", "is not a valid number"),
    # What is wrong stands beside it, as the library says it.
    "rule.parameter": ("不适用于此规则", "does not fit this rule"),
    "rule.not_settable": (
        "此规则没有该参数，可设置的有 {known}",
        "cannot be set; there are {known}",
    ),
    "rule.clear_alone": ("没有 limit，不能设置 clear", "cannot be set without a limit"),
    "rule.kind_stays": ("须保持为 {kind}，或另建规则", "stays {kind}; make another rule instead"),
    "rule.no_condition": ("此规则没有可试运行的条件", "has no condition that could be tried"),
    "condition.too_deep": ("条件嵌套过深", "is nested too deeply"),
    "condition.too_large": ("条件过多", "has too many parts"),
    "cell.events_only": ("网格内只能组合事件", "asks a cell, which only events can be"),
    "cell.instants_only": ("网格内的事件只取其发生时刻", "asks a cell: events count by instant"),
    "event.never_ends": (
        "永不结束：须给出结束事件或时长",
        "would never end: give an event that ends it, or a time",
    ),
    "event.ends_itself": ("同一事件既开始又结束", "would end with the event it begins with"),
    "event.none": ("该类设备没有事件", "is of a device class without events"),
    "kind.unknown": ("没有这类设备", "is not a device class"),
    "kind.other": ("单台设备听不到其他类设备的事件", "is another device class than the rule's"),
    "limit.out_of_range": ("超出该字段的范围", "lies beyond what the field can say"),
    "schedule.lamps_only": ("只有路灯有照明时段", "is for lamps only"),
    "field.always_known": ("设备状态总是已知", "is known at any time"),
    "state.without_event": (
        "同时涉及事件与设备状态时须先有事件",
        "asks for events and for a state: an event has to come first",
    ),
    "state.no_history": (
        "历史中无从得知设备何时首次上报，状态 {found} 不能试运行",
        "asks who is {found}: since when a device was heard is kept nowhere, so it cannot be tried",
    ),
    "value.type": ("与字段类型不符", "is of another type than the field"),
    "word.unknown": ("该字段没有这个取值", "is not a word the field can say"),
    "expression.syntax": ("表达式在第 {position} 个字符处有误", "is wrong at character {position}"),
    "expression.unknown_field": (
        "表达式在第 {position} 个字符处引用未知字段",
        "names an unknown field at character {position}",
    ),
    "expression.unknown_word": (
        "表达式在第 {position} 个字符处使用了该字段没有的取值 {found}",
        "compares at character {position} with {found}, which the field never says",
    ),
    "expression.too_deep": ("表达式嵌套过深", "is nested too deeply"),
    "expression.too_large": ("表达式过长", "is too long"),
    "expression.constant": ("表达式不依赖任何字段", "asks for no field at all"),
    "expression.not_boolean": ("表达式须得出真或假", "must be true or false"),
    "expression": (
        "表达式在第 {position} 个字符处使用了不支持的写法",
        "uses what is not supported at character {position}",
    ),
    "request.malformed": ("格式有误", "is malformed"),
}

# pydantic's error types and our codes for them.
_CODES: Final = {
    "missing": "field.missing",
    "extra_forbidden": "field.unknown",
    "enum": "field.enum",
    "literal_error": "field.enum",
    "greater_than": "value.range",
    "greater_than_equal": "value.range",
    "less_than": "value.range",
    "less_than_equal": "value.range",
    "string_too_short": "text.too_short",
    "too_short": "list.too_short",
    "too_long": "list.too_long",
    "string_too_long": "text.too_long",
    "string_pattern_mismatch": "text.invalid",
    "string_unicode": "text.invalid",
    "value_error": "text.invalid",
    "timezone_aware": "time.naive",
    "datetime_parsing": "time.format",
    "datetime_from_date_parsing": "time.format",
    "datetime_type": "time.format",
    "date_parsing": "date.format",
    "date_from_datetime_parsing": "date.format",
    "date_from_datetime_inexact": "date.format",
    "date_type": "date.format",
}


class ErrorItem(BaseModel):
    """One thing that is wrong with the request; bounds such as ``min`` stand beside it."""

    model_config = ConfigDict(extra="allow")

    pointer: str = Field(examples=["/query/limit"])
    code: str = Field(examples=["value.range"])
    message: str


class ProblemDocument(BaseModel):
    """RFC 9457, with a stable ``code``."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    code: str
    instance: str = Field(description="the request id")
    detail: str | None = None
    errors: list[ErrorItem] | None = None


def language(accept: str) -> Language:
    """Return the language that an ``Accept-Language`` prefers among ours; zh-CN by default."""
    best: tuple[float, Language] = (0.0, "zh-CN")
    for part in accept.split(",")[:20]:
        tag, _, parameters = part.strip().partition(";")
        name, _, value = parameters.strip().partition("=")
        quality = 1.0
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                continue
        primary = tag.strip().lower().split("-")[0]
        known: Language | None = {"zh": "zh-CN", "en": "en"}.get(primary)  # pyright: ignore[reportAssignmentType] - the table's values are the two languages
        if known is not None and quality > best[0]:
            best = (quality, known)
    return best[1]


def request_id(request: Request) -> str:
    """Return the id under which this request is logged."""
    return cast(str, request.scope.get("linli.request_id", ""))


def document(problem: Problem, tongue: Language, instance: str) -> dict[str, object]:
    """Return the problem as RFC 9457 wants it."""
    status, chinese, english = KINDS[problem.code]
    members: dict[str, object] = {
        "type": f"urn:linli:problem:{problem.code}",
        "title": english if tongue == "en" else chinese,
        "status": status,
        "code": problem.code,
        "instance": instance,
    }
    if problem.detail is not None:
        members["detail"] = problem.detail
    if problem.errors:
        members["errors"] = [_item(error, tongue) for error in problem.errors]
    return members | problem.extra


def answer(request: Request, problem: Problem) -> Response:
    """Return the response that tells the client of ``problem``."""
    tongue = language(request.headers.get("accept-language", ""))
    return JSONResponse(
        document(problem, tongue, request_id(request)),
        status_code=KINDS[problem.code][0],
        headers={"Cache-Control": "no-store", "Content-Language": tongue, **problem.headers},
        media_type=MEDIA_TYPE,
    )


def _item(error: FieldError, tongue: Language) -> dict[str, object]:
    message = (error.texts or _texts(error))[1 if tongue == "en" else 0]
    return {"pointer": error.pointer, "code": error.code, "message": message, **error.bounds}


def _texts(error: FieldError) -> tuple[str, str]:
    bounded = [f"{error.code}:{name}" for name in error.bounds]
    family = error.code.partition(".")[0]
    told = (*bounded, error.code, family, "request.malformed")
    keys = (key for key in told if key in _MESSAGES)
    chinese, english = _MESSAGES[next(keys)]
    return chinese.format_map(error.bounds), english.format_map(error.bounds)


def invalid(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """Turn pydantic's list into one problem; Any: its context holds whatever the type needs."""
    items: list[FieldError] = []
    for error in errors[:ERRORS_MAX]:
        location: tuple[str | int, ...] = tuple(error["loc"])
        if error["type"] == "json_invalid":
            return Problem("body.not_json")
        if error["type"] == "missing" and location == ("body",):
            return Problem("body.missing")
        context: Mapping[str, Any] = error.get("ctx") or {}
        code = _CODES.get(error["type"], "field.type")
        items.append(FieldError("/" + "/".join(map(str, location)), code, _bounds(code, context)))
    return Problem("request.invalid", errors=items)


def _bounds(code: str, context: Mapping[str, Any]) -> dict[str, object]:
    match code:
        case "value.range":
            low = context.get("ge", context.get("gt"))
            high = context.get("le", context.get("lt"))
            return {"min": _plain(low)} if high is None else {"max": _plain(high)}
        case "text.too_short" | "list.too_short":
            return {"min": context.get("min_length")}
        case "text.too_long" | "list.too_long":
            return {"max": context.get("max_length")}
        case "field.enum":
            # The library puts "or" before the last word, which is no word of zh-CN.
            return {"allowed": str(context.get("expected")).replace(" or ", ", ")}
        case _:
            return {}


def _plain(bound: object) -> object:
    return bound if isinstance(bound, int | float) else str(bound)


def install(app: FastAPI) -> None:
    """Make every error of ``app`` a problem document."""

    async def problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return answer(request, error)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = _BY_STATUS.get(error.status_code)
        if code is None:
            log.warning("unmapped http status=%d", error.status_code)
            code = "internal" if error.status_code >= 500 else "request.malformed"
        return answer(request, Problem(code, headers=error.headers))

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answer(request, invalid(error.errors()))

    async def unavailable(request: Request, error: Exception) -> Response:
        log.warning("database not available request=%s: %s", request_id(request), error)
        return answer(request, Problem("unavailable", headers={"Retry-After": "5"}))

    async def internal(request: Request, error: Exception) -> Response:
        # The server logs the traceback itself; the id ties it to what the person saw.
        log.error("request failed request=%s error=%s", request_id(request), type(error).__name__)
        return answer(request, Problem("internal"))

    app.add_exception_handler(Problem, problem)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, refused)
    app.add_exception_handler(psycopg.OperationalError, unavailable)
    app.add_exception_handler(PoolTimeout, unavailable)
    app.add_exception_handler(Exception, internal)
