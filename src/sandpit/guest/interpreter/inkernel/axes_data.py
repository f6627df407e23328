"""What the charts have in common: points, ticks, scales, labels and units of an axes (code-interpreter 2.8)."""

import datetime as dt
import math
import re
from importlib import import_module
from typing import Any, Dict, List, Optional

_UNIT = re.compile(r"\s\((.*?)\)|\[(.*?)\]")


def text(value: Any) -> Optional[str]:
    """A title or label; None instead of nothing."""
    return str(value) or None


def number(value: Any) -> Optional[float]:
    """A float that JSON can hold, else None."""
    converted = float(value)
    return converted if math.isfinite(converted) else None


def artists(axes: Any) -> List[Any]:
    """What was drawn into an axes, in order of drawing, without texts."""
    text_type = import_module("matplotlib.text").Text
    # No public name gives the artists of all kinds in this order.
    return [artist for artist in axes._children if not isinstance(artist, text_type)]


def is_guide(artist: Any) -> bool:
    """Whether a line is made of horizontal and vertical strokes of two points only, as grid lines, thresholds and error bars are."""
    if not isinstance(artist, import_module("matplotlib.lines").Line2D):
        return False
    strokes: List[List[Any]] = [[]]
    for x, y in zip(artist.get_xdata(), artist.get_ydata()):
        if _is_gap(x) or _is_gap(y):
            strokes.append([])
        elif len(strokes[-1]) == 2:
            return False
        else:
            strokes[-1].append((x, y))
    return all(len(one) == 2 and bool(one[0][0] == one[1][0] or one[0][1] == one[1][1]) for one in strokes)


def labels(axes: Any) -> Dict[str, Optional[str]]:
    """Labels of both axes and the units named in them."""
    x, y = axes.get_xlabel(), axes.get_ylabel()
    return {"x_label": text(x), "y_label": text(y), "x_unit": _unit(x), "y_unit": _unit(y)}


def swapped(described: Dict[str, Optional[str]]) -> Dict[str, Optional[str]]:
    """`labels` of a chart that lies on its side: x names the categories."""
    return {
        "x_label": described["y_label"],
        "y_label": described["x_label"],
        "x_unit": described["y_unit"],
        "y_unit": described["x_unit"],
    }


def scales(axes: Any) -> Dict[str, Any]:
    """Ticks, their labels and the scale, of both axes."""
    described: Dict[str, Any] = {}
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        ticks = [float(tick) for tick in axis.get_ticklocs()]
        names = [label.get_text() for label in axis.get_ticklabels()]
        scale = _scale(axis, ticks, names)
        frequency = _frequency(axis)
        if frequency is not None:
            described[name + "_ticks"] = [_tick_period(tick, frequency) for tick in ticks]
        elif scale == "datetime":
            described[name + "_ticks"] = [_tick_date(tick) for tick in ticks]
        else:
            described[name + "_ticks"] = [number(tick) for tick in ticks]
        described[name + "_tick_labels"] = names
        described[name + "_scale"] = scale
    return described


def points(x_values: Any, y_values: Any, axes: Any) -> List[List[Any]]:
    """Pairs of plain values; numbers on a date axis become dates."""
    return [[_coordinate(x, axes.xaxis), _coordinate(y, axes.yaxis)] for x, y in zip(x_values, y_values)]


def name_at(axis: Any, position: float) -> str:
    """What stands at a position of the axis: the nearest label if labels were chosen, else the position itself, as a date or number."""
    chosen = (import_module("matplotlib.ticker").FixedLocator, import_module("matplotlib.category").StrCategoryLocator)
    if isinstance(axis.get_major_locator(), chosen):
        ticks = [(abs(float(tick) - position), at) for at, tick in enumerate(axis.get_ticklocs())]
        texts = [label.get_text() for label in axis.get_ticklabels()]
        if ticks and min(ticks)[1] < len(texts):
            return str(texts[min(ticks)[1]])
    return _date(position) if _is_date(axis) else f"{position:g}"


def numbered(label: str, automatic: str, name: str) -> str:
    """A label; one that matplotlib made up (`_child3`) becomes `name 3`."""
    return re.sub(rf"^{automatic}(\d+)$", rf"{name} \1", label)


def _is_gap(value: Any) -> bool:
    """Whether a line is interrupted here: NaN, NaT and None."""
    return value is None or bool(value != value)


def _unit(label: str) -> Optional[str]:
    match = _UNIT.search(label)
    return (match.group(1) or match.group(2)) if match else None


def _scale(axis: Any, ticks: List[float], names: List[str]) -> str:
    if _is_date(axis) or _frequency(axis) is not None:
        return "datetime"
    scale = str(axis.get_scale())
    indexes = [float(at) for at in range(len(ticks))]
    named = any(name != str(at) for at, name in enumerate(names))
    return "categorical" if scale == "linear" and ticks and ticks == indexes and named and _is_text(names) else scale


def _is_text(names: List[str]) -> bool:
    """Whether the tick labels are names: those of plain numbers read as numbers."""
    try:
        [float(name.replace("\N{MINUS SIGN}", "-")) for name in names]
    except ValueError:
        return True
    return False


def _is_date(axis: Any) -> bool:
    dates = import_module("matplotlib.dates")
    converter = axis.get_converter() if hasattr(axis, "get_converter") else axis.converter
    return isinstance(converter, (dates.DateConverter, dates._SwitchableDateConverter))


def _frequency(axis: Any) -> Any:
    """That of the periods on an x axis, where pandas drew; else None."""
    return getattr(axis.axes, "freq", None) if axis.axis_name == "x" else None


def _tick_date(tick: float) -> str:
    return str(import_module("matplotlib.dates").num2date(tick).isoformat())


def _tick_period(tick: float, frequency: Any) -> str:
    """What pandas calls the number on an axis of periods."""
    period = import_module("pandas").Period(ordinal=int(tick), freq=frequency)
    return str(period.to_timestamp().tz_localize("UTC").isoformat())


def _coordinate(value: Any, axis: Any) -> Any:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (dt.date, dt.datetime)):
        return value.isoformat()
    if type(value).__name__ == "datetime64":
        return str(value.astype("datetime64[s]"))
    if hasattr(value, "to_timestamp"):  # a period
        return str(value.to_timestamp().isoformat())
    return _date(float(value)) if _is_date(axis) else number(value)


def _date(value: float) -> str:
    return str(import_module("matplotlib.dates").num2date(value).replace(tzinfo=None).isoformat())
