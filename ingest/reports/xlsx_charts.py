# SPDX-License-Identifier: Apache-2.0
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# The types of openpyxl's charts leave out what its descriptors make.
"""The workbook's own charts: they follow the cells, and people can change them."""

from dataclasses import dataclass
from typing import Final

from openpyxl.chart import BarChart, LineChart, Reference
from openpyxl.chart.label import DataLabelList
from openpyxl.chart.series import Series
from openpyxl.chart.series_factory import SeriesFactory
from openpyxl.worksheet.worksheet import Worksheet

from ingest.reports.charts import Axis
from ingest.reports.content import Number, Report
from ingest.reports.words import percent, word

# More bars than this are no longer a picture.
_MOST_BARS: Final = 30
_PERCENT: Final = "0.00%"


@dataclass(frozen=True, slots=True)
class DaysAt:
    """Where the days of one indicator stand: rows ``first`` to ``last`` of the daily sheet."""

    sheet: Worksheet
    number: Number
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class AreasAt:
    """Where one number of the areas below stands: a column, from row 2 on."""

    sheet: Worksheet
    number: Number
    column: int
    total: int

    @property
    def drawn(self) -> int:
        """How many of them are drawn."""
        return min(self.total, _MOST_BARS)


def draw(
    sheet: Worksheet, report: Report, row: int, days: DaysAt | None, areas: AreasAt | None
) -> int:
    """Put the charts on a sheet from ``row`` on; return the first row below them."""
    if days is not None:
        sheet.add_chart(_days_chart(report, days), f"A{row}")
        row += 19
    if areas is not None:
        sheet.add_chart(_areas_chart(report, areas), f"A{row}")
        row += 8 + areas.drawn
    return row


def _days_chart(report: Report, days: DaysAt) -> LineChart:
    """Draw value, bounds and target by day; a day without data is a gap."""
    language = report.language
    name = report.definition(days.number.indicator).name[language]
    chart = LineChart()
    chart.title = word("by_day", language, name=name)
    chart.title.overlay = chart.legend.overlay = False
    chart.height, chart.width = 9, 30
    chart.legend.position = "b"
    chart.display_blanks = "gap"
    looks = {3: ("1F5F99", 28_000, "solid"), 4: ("8FB4D8", 12_000, "solid"),
             5: ("8FB4D8", 12_000, "solid"), 6: ("A3470B", 19_000, "dash")}  # fmt: skip
    for column, (color, width, dash) in looks.items():
        values = Reference(days.sheet, min_col=column, min_row=days.first, max_row=days.last)
        label = word({3: "value", 4: "lower", 5: "upper", 6: "target"}[column], language)
        line: Series = SeriesFactory(values, title=label)
        line.smooth = False
        line.graphicalProperties.line.solidFill = color
        line.graphicalProperties.line.width = width
        line.graphicalProperties.line.dashStyle = dash
        line.marker.symbol = "circle" if column == 3 else "none"
        if column == 3:
            line.marker.size = 5
            line.marker.graphicalProperties.solidFill = color
            line.marker.graphicalProperties.line.solidFill = color
        chart.append(line)
    chart.set_categories(Reference(days.sheet, min_col=2, min_row=days.first, max_row=days.last))
    chart.x_axis.number_format = "mm-dd"
    chart.x_axis.delete = chart.y_axis.delete = False
    chart.x_axis.tickLblSkip = 5
    chart.x_axis.tickLblPos = "low"
    known = [
        bound
        for day in report.daily[days.number.indicator]
        if day.value is not None
        for bound in (day.value, day.lower, day.upper)
        if bound is not None
    ]
    if days.number.target is not None:
        known.append(days.number.target.value)
    axis = Axis.over(min(known, default=0.0), max(known, default=1.0))
    chart.y_axis.scaling.min, chart.y_axis.scaling.max = axis.first / 1_000, axis.last / 1_000
    chart.y_axis.majorUnit = axis.step / 1_000
    chart.y_axis.number_format = "0.0%"
    return chart


def _areas_chart(report: Report, areas: AreasAt) -> BarChart:
    """Draw the areas below as bars from 0, for a bar says how much by its length."""
    language = report.language
    name = report.definition(areas.number.indicator).name[language]
    text = word("by_area", language, name=name)
    target = areas.number.target
    if target is not None:
        sign = "≥" if target.better == "high" else "≤"
        text += f" ({word('target', language)} {sign} {percent(target.value)})"
    if areas.drawn < areas.total:
        text += f" ({areas.drawn} / {areas.total})"
    chart = BarChart()
    chart.type = "bar"
    chart.title = text
    chart.title.overlay = False
    chart.legend = None
    chart.gapWidth = 60
    chart.height, chart.width = 4 + 0.5 * areas.drawn, 30
    last = areas.drawn + 1
    values = Reference(areas.sheet, min_col=areas.column, min_row=2, max_row=last)
    bars: Series = SeriesFactory(values, title=name)
    bars.graphicalProperties.solidFill = "1F5F99"
    chart.append(bars)
    chart.set_categories(Reference(areas.sheet, min_col=1, min_row=2, max_row=last))
    chart.dataLabels = DataLabelList(showVal=True, numFmt=_PERCENT)
    chart.dataLabels.showSerName = chart.dataLabels.showCatName = False
    chart.dataLabels.showLegendKey = chart.dataLabels.showPercent = False
    chart.x_axis.delete = chart.y_axis.delete = False
    chart.x_axis.scaling.orientation = "maxMin"
    chart.y_axis.scaling.min, chart.y_axis.scaling.max = 0, 1
    chart.y_axis.number_format = "0%"
    return chart
