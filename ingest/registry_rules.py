# SPDX-License-Identifier: Apache-2.0
"""What registry files must keep to, in both languages: the console shows it, the command prints it.

Words that stand in the files themselves (columns, levels, classes) stay as they stand there; what
the operating system or a library says of a broken file stays in its own words.
"""

from collections.abc import Mapping
from typing import Final

# code: what is wrong in zh-CN, in en; braces take what `Expected.params` holds.
RULES: Final[Mapping[str, tuple[str, str]]] = {
    # One cell.
    "cell.empty": ("不得为空", "must not be empty"),
    "cell.formula": ("是公式：请填入其值", "is a formula: put its value there"),
    "cell.error": ("是错误值", "is an error"),
    "cell.cut": (
        "是数字，已被截至 15 位：请将该列设为文本后重新输入",
        "is a number, cut to 15 digits: make the column text and type it again",
    ),
    "text.pattern": ("须符合 {pattern}", "must match {pattern}"),
    "text.formula": (
        "不得以 = + - @ 开头，电子表格会将其当作公式",
        "must not begin with = + - @, which spreadsheets take for a formula",
    ),
    "text.too_long": ("最多 {max} 个字符", "at most {max} characters"),
    "text.unprintable": ("只能含可显示的字符", "must hold printable characters only"),
    "word": ("须为以下之一：{allowed}", "expected one of {allowed}"),
    "number": ("须为 {low} 至 {high} 的数", "expected a number from {low} to {high}"),
    "number.above": (
        "须为大于 {low} 且不大于 {high} 的数",
        "expected a number above {low} and at most {high}",
    ),
    "number.swapped": (
        "须为 {low} 至 {high} 的数；纬度与经度是否填反？",
        "expected a number from {low} to {high}; latitude and longitude swapped?",
    ),
    "number.whole": (
        "须为 {low} 至 {high} 的整数",
        "expected a whole number from {low} to {high}",
    ),
    "instant": (
        "须为带时区的时间，例如 2026-03-01T00:00:00+08:00",
        "expected an instant with its zone, such as 2026-03-01T00:00:00+08:00",
    ),
    "day": (
        "须为 {low} 至 {high} 年之间的日期，例如 2026-03-01",
        "expected a date from {low} to {high}, such as 2026-03-01",
    ),
    "time_zone": (
        "须为 IANA 时区，例如 Asia/Shanghai",
        "expected an IANA time zone, such as Asia/Shanghai",
    ),
    "programme": (
        "须为 sun、sun+15-10、always 或 18:00-06:00，可带亮度，例如 sun@100,23:00@50",
        "expected sun, sun+15-10, always or 18:00-06:00, with levels sun@100,23:00@50",
    ),
    # One row.
    "row.cells": (
        "有 {cells} 格，表头有 {columns} 格",
        "has {cells} cells, the header has {columns}",
    ),
    "row.beyond": ("在其 {columns} 列之外还有内容", "has cells beyond its {columns} columns"),
    "row.twice": ("已见于 {first}", "stands already in {first}"),
    "lamp.only": ("只有路灯可填", "only lamps have one"),
    "day.not_before": (
        "不得早于 {other} {day}",
        "must not lie before {other} {day}",
    ),
    "day.after": ("须晚于 {other} {day}", "must lie after {other} {day}"),
    "place.half": ("纬度与经度须同时填写", "latitude and longitude go together"),
    "place.nowhere": (
        "0,0 位于海中；位置未知时请将两者留空",
        "0,0 lies in the sea; leave both empty where the place is not known",
    ),
    # What rows say of one another.
    "area.unknown": ("没有这样的区域", "no such area"),
    "area.circle": ("区域互为上级：{circle}", "the areas form a circle: {circle}"),
    "area.level": (
        "级别须低于其上级的级别 {level}",
        "must lie below its parent's, which is {level}",
    ),
    "area.outside": (
        "所有区域须在 {root} 之内，而 {root} 没有上级",
        "all areas must lie in '{root}', it in none",
    ),
    "gateway.unknown": ("没有这样的网关", "no such gateway"),
    "gateway.community": ("级别为 {level}，不是 community", "is a {level}, not a community"),
    "gateway.needed": (
        "其后尚有 {count} 台设备未退役，例如 {device}；请使其退役，或改接其他网关",
        "{count} devices behind it are not retired, such as '{device}';"
        " retire them or put them behind another gateway",
    ),
    "device.kind": (
        "已登记为 {kind}；新设备请另取编号",
        "is registered as a {kind}; give the new device an id of its own",
    ),
    "device.outside": (
        "不在其网关所属的社区 {community} 内",
        "lies outside its gateway's community '{community}'",
    ),
    "programme.place": (
        "随日照亮灯，而 {level} {area} 没有经纬度",
        "follows the sun, but {level} '{area}' has no latitude and longitude",
    ),
    "programme.night": (
        "从不亮灯：{level} {area} 没有足够长的夜",
        "never lights: no night at {level} '{area}' is long enough",
    ),
    "population.overlap": (
        "与 {first} 至 {last} 的人口数重叠",
        "overlaps the figure from {first} to {last}",
    ),
    "population.overlap_later": (
        "与自 {first} 起的人口数重叠",
        "overlaps the figure from {first}",
    ),
    # A header.
    "header.unknown": (
        "不是登记文件：表头至少须有 {columns}",
        "not a registry file: its header must have at least {columns}",
    ),
    "header.empty": ("首行为空：表头须在首行", "the first row is empty: put the header there"),
    "header.other": (
        "表头属于 {found}，而不是 {wanted}",
        "has the header of {found}, not of {wanted}",
    ),
    "column.unknown": ("没有这样的列，可用的有 {known}", "unknown column, known are {known}"),
    "column.twice": ("出现了两次", "stands there twice"),
    "column.missing": ("缺少此列", "column is missing"),
    # A file as a whole.
    "file.unreadable": ("无法读取：{error}", "cannot read: {error}"),
    "file.encoding": ("不是 UTF-8：请另存为 CSV UTF-8", "is not UTF-8: save it as CSV UTF-8"),
    "file.utf16": (
        "不是 UTF-8，而是 UTF-16：请另存为 CSV UTF-8",
        "is not UTF-8, it is UTF-16: save it as CSV UTF-8",
    ),
    "file.gb18030": (
        "不是 UTF-8，疑为 GB18030：请另存为 CSV UTF-8",
        "is not UTF-8, it looks like GB18030: save it as CSV UTF-8",
    ),
    "file.csv": ("不是 CSV：{error}", "not CSV: {error}"),
    "book.old": (
        "是旧格式工作簿或设有密码：请另存为不带密码的 .xlsx",
        "is an old workbook or has a password: save it as .xlsx without one",
    ),
    "book.password": ("设有密码：请另存为不带密码的文件", "has a password: save it without one"),
    "book.none": (
        "不是工作簿：请另存为 .xlsx 或 CSV UTF-8",
        "is not a workbook: save it as .xlsx or CSV UTF-8",
    ),
    "book.broken": (
        "不是工作簿，或已损坏：{error}",
        "is not a workbook, or a broken one: {error}",
    ),
    "book.macros": ("含有宏：请另存为 .xlsx", "holds macros: save it as .xlsx"),
    "book.parts": ("部件超过 {max} 个", "has more than {max} parts"),
    "book.parts_alike": ("有两个同名部件", "has two parts of one name"),
    "book.unpacked": (
        "解压后超过 {max_mib} MiB：请改用 CSV",
        "unpacks to more than {max_mib} MiB: use CSV",
    ),
    "book.doctype": (
        "在 {part} 中声明了文档类型，工作簿不需要它",
        "declares a document type in {part}, which no workbook needs",
    ),
    "book.texts": (
        "文本超过 {max_mib} MiB：请改用 CSV",
        "holds more than {max_mib} MiB of text: use CSV",
    ),
    "sheet.broken": ("工作表 {sheet} 已损坏：{error}", "sheet '{sheet}': broken: {error}"),
    "sheet.cells": (
        "工作表 {sheet} 超过 {max} 格：请改用 CSV",
        "sheet '{sheet}': more than {max} cells: use CSV",
    ),
    "sheet.rows": ("超过 {max} 行：请改用 CSV", "more than {max} rows: use CSV"),
    "sheet.merged": ("有合并单元格 {cells}：请取消合并", "merged cells {cells}: take them apart"),
}


class Expected:
    """What was expected where a registry file has something else.

    Attributes:
        code: A key of `RULES`.
        params: What its texts name: strings and whole numbers.
    """

    __slots__ = ("code", "params")

    def __init__(self, code: str, **params: str | int) -> None:
        """Take a code and exactly what its texts name."""
        self.code = code
        self.params: Mapping[str, str | int] = params

    @property
    def texts(self) -> tuple[str, str]:
        """What people read, in zh-CN and in en."""
        chinese, english = RULES[self.code]
        return chinese.format_map(self.params), english.format_map(self.params)

    def __str__(self) -> str:
        return self.texts[1]


class UnexpectedError(ValueError):
    """A cell holds something else than was expected."""

    def __init__(self, code: str, **params: str | int) -> None:
        """Say what was expected."""
        self.expected = Expected(code, **params)
        super().__init__(str(self.expected))
