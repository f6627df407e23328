"""Charts as data: what a matplotlib figure shows (code-interpreter 2.8)."""

from importlib import import_module
from typing import Any, Dict, List

from . import axes_data as data
from . import boxes

Chart = Dict[str, Any]


def of_figure(figure: Any) -> Chart:
    """The chart of a figure: of its only axes, or a superchart; `{}` if nothing is drawn."""
    charts = [of_axes(axes) for axes in figure.axes]
    if not any(axes.has_data() for axes in figure.axes):
        return {}
    if len(charts) == 1:
        return charts[0]
    return {"type": "superchart", "title": _suptitle(figure), "elements": charts}


def of_axes(axes: Any) -> Chart:
    """The chart of one axes."""
    kind = _kind(axes)
    chart = {"type": kind, "title": data.text(axes.get_title())}
    chart.update(_MAKERS[kind](axes))
    return chart


def _kind(axes: Any) -> str:
    line, patches = import_module("matplotlib.lines").Line2D, import_module("matplotlib.patches")
    dots = import_module("matplotlib.collections").PathCollection
    artists = data.artists(axes)
    if _only(artists, (line,)):  # also an axes without anything: it has scales and labels to tell
        return "line"
    if _only(artists, (patches.PathPatch, line)):
        return "box_and_whisker"
    artists = [artist for artist in artists if not data.is_grid_line(artist)]
    for kind, types in (("scatter", (dots,)), ("pie", (patches.Wedge,)), ("bar", (patches.Rectangle,))):
        if _only(artists, types):
            return kind
    return "unknown"


def _only(artists: List[Any], types: Any) -> bool:
    return all(isinstance(artist, types) for artist in artists)


def _suptitle(figure: Any) -> str:
    title = getattr(figure, "_suptitle", None)  # public getter only since matplotlib 3.8
    return "" if title is None else str(title.get_text())


def _line(axes: Any) -> Chart:
    lines = [line for line in axes.get_lines() if not data.is_grid_line(line)]
    elements = []
    for line in lines:
        label = data.numbered(str(line.get_label()), "_child", "Line")
        elements.append({"label": label, "points": data.points(line.get_xdata(), line.get_ydata(), axes)})
    return {"elements": elements, **data.labels(axes), **data.scales(axes)}


def _scatter(axes: Any) -> Chart:
    elements = []
    for collection in axes.collections:
        offsets = collection.get_offsets()
        x, y = offsets[:, 0], offsets[:, 1]
        elements.append({"label": str(collection.get_label()), "points": data.points(x, y, axes)})
    return {"elements": elements, **data.labels(axes), **data.scales(axes)}


def _bar(axes: Any) -> Chart:
    described = data.labels(axes)
    elements: List[Chart] = []
    for at, container in enumerate(axes.containers):
        horizontal = container.orientation == "horizontal"
        if horizontal and at == 0:
            described = data.swapped(described)
        group = data.numbered(str(container.get_label()), "_container", "Group")
        for bar in container:
            start, length, value = (
                (bar.get_y(), bar.get_height(), bar.get_width())
                if horizontal
                else (bar.get_x(), bar.get_width(), bar.get_height())
            )
            label = data.name_at(axes.yaxis if horizontal else axes.xaxis, float(start + length / 2))
            elements.append({"label": label, "group": group, "value": data.number(value)})
    return {"elements": elements, **described}


def _pie(axes: Any) -> Chart:
    elements = []
    for wedge in axes.patches:
        angle = float(f"{abs(wedge.theta2 - wedge.theta1):.8g}")
        elements.append({"label": str(wedge.get_label()), "angle": angle, "radius": data.number(wedge.r)})
    return {"elements": elements}


def _box(axes: Any) -> Chart:
    elements, horizontal = boxes.of_axes(axes)
    described = data.labels(axes)
    return {"elements": elements, **(data.swapped(described) if horizontal else described)}


def _unknown(_axes: Any) -> Chart:
    return {"elements": []}


_MAKERS = {
    "line": _line,
    "scatter": _scatter,
    "bar": _bar,
    "pie": _pie,
    "box_and_whisker": _box,
    "unknown": _unknown,
}
