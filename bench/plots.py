"""Plots as SVG to stand inside a page: no script, nothing to fetch, and colours are the page's own.

pygal draws; what it would fetch (a script for tooltips, fonts) is taken out, and what screen readers say is put in.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import pygal
from pygal.style import Style

# For maps, pygal adds a finder of a kind that Python has given up: it would warn at every later import.
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "pygal"]

WIDTH, HEIGHT, FONT = 640, 380, 17
"""Units of the picture. A phone shows it at half the size, where the font is then like small print."""
TICKS = 5
"""About so many labels stand at a linear axis."""
DECADES = 3
"""A logarithmic axis of so many powers of ten has labels between them."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: what it says, where a value stands on it, and which values between two are labelled, and how."""

    label: str
    place: Callable[[float], float]
    ticks: Callable[[float, float], list[float]]
    show: Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot. `look` is `line`, `dashed` or `dots`; `colour` counts through the page's colours."""

    name: str
    points: Sequence[Point]
    colour: int
    look: str = "line"


def plain(value: float) -> str:
    """A number as short as it can be read: 1200 as 1,200 and 0.30 as 0.3."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def linear(label: str, show: Callable[[float], str] = plain, *, zero: bool = True) -> Axis:
    """Equal steps, from zero on unless it is said that small changes are what matters."""
    return Axis(label, float, _from_zero if zero else _even, show)


def logarithmic(label: str) -> Axis:
    """Equal steps are equal factors."""
    return Axis(label, math.log10, _decades, plain)


def percentiles(label: str) -> Axis:
    """1 / (1 - p), logarithmic, as HdrHistogram plots have it: each nine takes as much room as the one before."""
    return Axis(label, lambda share: -math.log10(1 - share), _nines, lambda share: f"{100 * share:.6g} %")


def _from_zero(low: float, high: float) -> list[float]:
    return _even(min(low, 0.0), max(high, 0.0))


def _even(low: float, high: float) -> list[float]:
    rough = (high - low) / TICKS or 1.0
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [
        step * number
        for number in range(math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1) + 1)
    ]


def _decades(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.floor(math.log10(high)) + 1
    factors = (1, 2, 5) if last - first <= DECADES else (1,)
    every = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    below = max(tick for tick in every if tick <= low)
    above = min(tick for tick in every if tick > high)
    return [tick for tick in every if below <= tick <= above]


def _nines(_low: float, high: float) -> list[float]:
    count = max(1, math.ceil(-math.log10(1 - high)))
    return [0.5, *(1 - 10.0**-nines for nines in range(1, count + 1))]


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture. `name` is its id in the page, `rows` are the places on the x axis that a table of it has."""

    name: str
    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line]
    rows: Sequence[float]

    @property
    def described(self) -> str:
        """What it shows, for those who can't see it."""
        names = ", ".join(line.name for line in self.lines if line.name)
        return f"{self.y.label} over {self.x.label}, of {names}. A table with the values follows."


def svg(plot: Plot) -> str:
    """The picture as an element of a page."""
    x, y, lines = plot.x, plot.y, plot.lines
    chart = pygal.XY(
        width=WIDTH,
        height=HEIGHT,
        show_legend=False,
        spacing=12,
        margin=8,
        margin_right=32,
        js=(),
        css=(),
        style=Style(font_family="inherit", label_font_size=FONT, major_label_font_size=FONT, title_font_size=FONT),
        x_title=x.label,
        y_title=y.label,
        x_labels=_labels(x, [point[0] for line in lines for point in line.points]),
        y_labels=_labels(y, [point[1] for line in lines for point in line.points]),
        truncate_label=-1,
    )
    for line in lines:
        points = [(x.place(left), y.place(up)) for left, up in line.points]
        chart.add("", points, stroke=line.look != "dots", show_dots=line.look == "dots", dots_size=4)
    return _for_a_page(chart.render_tree(), plot)


def _labels(axis: Axis, values: Sequence[float]) -> list[dict[str, Any]]:
    return [{"value": axis.place(tick), "label": axis.show(tick)} for tick in axis.ticks(min(values), max(values))]


_NOT_FOR_A_PAGE = {ElementTree.Comment, "defs", "title", "desc"}
"""Advertisements, style sheet and script, and texts for pygal's own tooltips."""


def _for_a_page(root: ElementTree.Element, plot: Plot) -> str:
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in _NOT_FOR_A_PAGE:
                parent.remove(child)
        number = next((int(part[6:]) for part in parent.get("class", "").split() if part.startswith("serie-")), None)
        if number is not None:
            line = plot.lines[number]
            parent.set("class", f"series {line.look} colour-{line.colour}")
    _say(root, "desc", f"{plot.name}-described", plot.described)
    _say(root, "title", f"{plot.name}-title", plot.title)
    names = f"{plot.name}-title {plot.name}-described"
    root.attrib.update({"id": plot.name, "role": "img", "aria-labelledby": names})
    return ElementTree.tostring(root, encoding="unicode")


def _say(root: ElementTree.Element, tag: str, name: str, text: str) -> None:
    element = ElementTree.Element(tag, {"id": name})
    element.text = text
    root.insert(0, element)


def table(plot: Plot) -> tuple[list[str], list[list[str]]]:
    """What it shows as a head and rows: of each line the first point that is not before the row's place."""
    lines = [line for line in plot.lines if line.name]
    head = [plot.x.label, *(line.name for line in lines)]
    return head, [[plot.x.show(place), *(_value(plot, line, place) for line in lines)] for place in plot.rows]


def _value(plot: Plot, line: Line, place: float) -> str:
    found = next((up for left, up in line.points if left >= place), None)
    return "-" if found is None else plot.y.show(found)
