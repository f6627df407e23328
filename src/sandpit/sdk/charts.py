"""Charts as data: what a plotted figure shows, for programs and models that want numbers instead of pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Value = str | float


@dataclass(frozen=True, slots=True)
class PointData:
    """One line, or one set of points."""

    label: str
    points: list[tuple[Value, Value]]
    """(x, y); dates are ISO 8601 text."""


@dataclass(frozen=True, slots=True)
class BarData:
    """One bar."""

    label: str
    group: str
    value: Value


@dataclass(frozen=True, slots=True)
class PieData:
    """One slice. `angle` is in degrees."""

    label: str
    angle: float
    radius: float


@dataclass(frozen=True, slots=True)
class BoxAndWhiskerData:
    """One box."""

    label: str
    min: float
    first_quartile: float
    median: float
    third_quartile: float
    max: float
    outliers: list[float]


Element = PointData | BarData | PieData | BoxAndWhiskerData


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of a kind that `type` names: line, scatter, bar, pie, box_and_whisker, superchart or unknown.

    A superchart's elements are the charts of a figure that has several; an unknown one has none.
    """

    type: str
    title: str | None
    elements: Sequence[Element | Chart]
    x_label: str | None = None
    y_label: str | None = None
    x_unit: str | None = None
    """What stands in brackets in the label."""
    y_unit: str | None = None
    x_scale: str | None = None
    """Of line and scatter: linear, datetime, categorical, log and so on."""
    y_scale: str | None = None
    x_ticks: Sequence[Value] = ()
    y_ticks: Sequence[Value] = ()
    x_tick_labels: Sequence[str] = ()
    y_tick_labels: Sequence[str] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The object as it came (code-interpreter 2.8)."""


_KINDS = {"line": PointData, "scatter": PointData, "bar": BarData, "pie": PieData, "box_and_whisker": BoxAndWhiskerData}
_PLAIN = ("x_label", "y_label", "x_unit", "y_unit", "x_scale", "y_scale")
_LISTS = ("x_ticks", "y_ticks", "x_tick_labels", "y_tick_labels")


def parse_chart(raw: Mapping[str, Any]) -> Chart | None:
    """The chart in a result; None for an empty object, which says that the figure could not be read."""
    if not raw:
        return None
    kind = str(raw.get("type", "unknown"))
    elements = [element for item in raw.get("elements") or () if (element := _element(kind, item)) is not None]
    axes: dict[str, Any] = {name: raw.get(name) for name in _PLAIN} | {name: raw.get(name) or () for name in _LISTS}
    return Chart(kind, raw.get("title"), elements, **axes, raw=raw)


def _element(kind: str, item: Mapping[str, Any]) -> Element | Chart | None:
    if kind == "superchart":
        return parse_chart(item)
    if kind in ("line", "scatter"):
        return PointData(item["label"], [(x, y) for x, y in item["points"]])
    if kind == "box_and_whisker":
        return BoxAndWhiskerData(**{**item, "outliers": item.get("outliers") or []})
    made = _KINDS.get(kind)
    return None if made is None else made(**item)
