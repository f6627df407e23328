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


def is_grid_line(artist: Any) -> bool:
    """Whether this is a horizontal or vertical line of two points, as guides and thresholds are."""
    if not isinstance(artist, import_module("matplotlib.lines").Line2D):
        return False
    x, y = artist.get_xdata(), artist.get_ydata()
    return len(x) == 2 and len(y) == 2 and bool(x[0] == x[1] or y[0] == y[1])


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
        dates = scale == "datetime"
        described[name + "_ticks"] = [_tick_date(tick) for tick in ticks] if dates else [number(tick) for tick in ticks]
        described[name + "_tick_labels"] = names
        described[name + "_scale"] = scale
    return described


def points(x_values: Any, y_values: Any, axes: Any) -> List[List[Any]]:
    """Pairs of plain values; numbers on a date axis become dates."""
    return [[_coordinate(x, axes.xaxis), _coordinate(y, axes.yaxis)] for x, y in zip(x_values, y_values)]


def name_at(axis: Any, position: float) -> str:
    """What stands at a position of the axis: the nearest label if labels were chosen, else the position itself."""
    chosen = (import_module("matplotlib.ticker").FixedLocator, import_module("matplotlib.category").StrCategoryLocator)
    if isinstance(axis.get_major_locator(), chosen):
        ticks = [(abs(float(tick) - position), at) for at, tick in enumerate(axis.get_ticklocs())]
        texts = [label.get_text() for label in axis.get_ticklabels()]
        if ticks and min(ticks)[1] < len(texts):
            return str(texts[min(ticks)[1]])
    return f"{position:g}"


def numbered(label: str, automatic: str, name: str) -> str:
    """A label; one that matplotlib made up (`_child3`) becomes `name 3`."""
    return re.sub(rf"^{automatic}(\d+)$", rf"{name} \1", label)


def _unit(label: str) -> Optional[str]:
    match = _UNIT.search(label)
    return (match.group(1) or match.group(2)) if match else None


def _scale(axis: Any, ticks: List[float], names: List[str]) -> str:
    if _is_date(axis):
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


def _tick_date(tick: float) -> str:
    return str(import_module("matplotlib.dates").num2date(tick).isoformat())


def _coordinate(value: Any, axis: Any) -> Any:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (dt.date, dt.datetime)):
        return value.isoformat()
    if type(value).__name__ == "datetime64":
        return str(value.astype("datetime64[s]"))
    if _is_date(axis):
        date = import_module("matplotlib.dates").num2date(float(value))
        return str(date.replace(tzinfo=None).isoformat())
    return number(value)
