"""Charts as data: what a matplotlib figure shows (code-interpreter 2.8).

The kind of an axes with one kind of artists is what E2B's extraction makes of it. Where that is at a loss (error bars, a curve through
dots, a shaded band), the additions are left out, and the data of each kind makes a chart.
"""

from importlib import import_module
from typing import Any, Callable, Dict, List, Sequence

from . import axes_data as data
from . import boxes
from .drawn import Curve, Drawn

Chart = Dict[str, Any]


def of_figure(figure: Any) -> Chart:
    """The chart of a figure; a superchart if it has several, `{}` if nothing is drawn."""
    shown = [axes for axes in figure.axes if axes.get_visible() and axes.get_label() != "<colorbar>"]
    if not any(axes.has_data() for axes in shown):
        return {}
    charts = [chart for axes in shown for chart in of_axes(axes)]
    if len(charts) == 1:
        return charts[0]
    title = _suptitle(figure) if len(shown) > 1 else data.text(shown[0].get_title())
    return {"type": "superchart", "title": title, "elements": charts}


def of_axes(axes: Any) -> List[Chart]:
    """The charts of one axes: more than one if it shows data whose charts have different elements."""
    drawn = Drawn(axes)
    return [
        {"type": kind, "title": data.text(axes.get_title()), **_MAKERS[kind](axes, drawn)}
        for kind in _kinds(axes, drawn)
    ]


def _kinds(axes: Any, drawn: Drawn) -> Sequence[str]:
    line, patches = import_module("matplotlib.lines").Line2D, import_module("matplotlib.patches")
    dots = import_module("matplotlib.collections").PathCollection
    artists = data.artists(axes)
    if drawn.stairs:
        return _mixed_kinds(drawn)
    if _only(artists, (line,)):  # also an axes without anything: it has scales and labels to tell
        return ["box_and_whisker" if drawn.outlines else "line"]
    if _only(artists, (patches.PathPatch, line)):
        return ["box_and_whisker"]
    artists = [artist for artist in artists if not data.is_guide(artist)]
    for kind, types in (("scatter", (dots,)), ("pie", (patches.Wedge,)), ("bar", (patches.Rectangle,))):
        if _only(artists, types):
            return [kind]
    return _mixed_kinds(drawn)


def _mixed_kinds(drawn: Drawn) -> Sequence[str]:
    if not drawn.all_known:
        return ["unknown"]
    if drawn.wedges:
        return ["pie"]
    kinds = []
    if drawn.bars or drawn.steps or drawn.stairs:
        kinds.append("bar")
    if drawn.has_boxes:
        kinds.append("box_and_whisker")
    if drawn.dots and (drawn.has_boxes or not drawn.lines or drawn.dots_first):
        kinds.append("scatter")
    elif not drawn.has_boxes and (drawn.lines or (drawn.areas and not kinds)):
        kinds.append("line")
    return kinds or ["unknown"]


def _only(artists: List[Any], types: Any) -> bool:
    return all(isinstance(artist, types) for artist in artists)


def _suptitle(figure: Any) -> str:
    title = getattr(figure, "_suptitle", None)  # public getter only since matplotlib 3.8
    return "" if title is None else str(title.get_text())


def _line(axes: Any, drawn: Drawn) -> Chart:
    return _of_points(axes, _curves(axes, drawn.curves) + _dots(axes, drawn))


def _scatter(axes: Any, drawn: Drawn) -> Chart:
    curves = [] if drawn.has_boxes else drawn.lines
    return _of_points(axes, _dots(axes, drawn) + _curves(axes, curves))


def _of_points(axes: Any, elements: List[Chart]) -> Chart:
    return {"elements": elements, **data.labels(axes), **data.scales(axes)}


def _curves(axes: Any, curves: Sequence[Curve]) -> List[Chart]:
    return [
        {"label": data.numbered(label, "_child", "Line"), "points": data.points(x, y, axes)} for label, x, y in curves
    ]


def _dots(axes: Any, drawn: Drawn) -> List[Chart]:
    elements = []
    for collection in drawn.dots:
        offsets = collection.get_offsets()
        x, y = offsets[:, 0], offsets[:, 1]
        elements.append({"label": str(collection.get_label()), "points": data.points(x, y, axes)})
    return elements


def _bar(axes: Any, drawn: Drawn) -> Chart:
    described = data.labels(axes)
    elements: List[Chart] = []
    for at, container in enumerate(drawn.bars):
        horizontal = container.orientation == "horizontal"
        if horizontal and at == 0:
            described = data.swapped(described)
        group = _group(container, at)
        for bar in container:
            start, length, value = (
                (bar.get_y(), bar.get_height(), bar.get_width())
                if horizontal
                else (bar.get_x(), bar.get_width(), bar.get_height())
            )
            label = data.name_at(axes.yaxis if horizontal else axes.xaxis, float(start + length / 2))
            elements.append({"label": label, "group": group, "value": data.number(value)})
    for at, (label, edges, heights) in enumerate([*drawn.steps, *map(_stairs, drawn.stairs)], len(drawn.bars)):
        group = f"Group {at}" if _is_automatic(label) else label
        for start, end, height in zip(edges, edges[1:], heights):
            name = data.name_at(axes.xaxis, float(start + end) / 2)
            elements.append({"label": name, "group": group, "value": data.number(height)})
    return {"elements": elements, **described}


def _group(container: Any, at: int) -> str:
    """The label of a container of bars; that of a histogram is on its first bar."""
    labels = [str(container.get_label()), *(str(bar.get_label()) for bar in container[:1])]
    return next((label for label in labels if not _is_automatic(label)), f"Group {at}")


def _is_automatic(label: str) -> bool:
    return not label or label.startswith("_")


def _stairs(patch: Any) -> Curve:
    values, edges, _ = patch.get_data()
    return str(patch.get_label()), edges, values


def _pie(axes: Any, drawn: Drawn) -> Chart:
    legend = axes.get_legend()
    texts = [text.get_text() for text in legend.get_texts()] if legend else []
    named = any(wedge.get_label() for wedge in drawn.wedges) or len(texts) != len(drawn.wedges)
    elements = []
    for at, wedge in enumerate(drawn.wedges):
        angle = float(f"{abs(wedge.theta2 - wedge.theta1):.8g}")
        label = str(wedge.get_label()) if named else texts[at]
        elements.append({"label": label, "angle": angle, "radius": data.number(wedge.r)})
    return {"elements": elements}


def _box(axes: Any, drawn: Drawn) -> Chart:
    elements, horizontal = boxes.of_axes(axes, drawn.boxes, drawn.outlines)
    described = data.labels(axes)
    return {"elements": elements, **(data.swapped(described) if horizontal else described)}


def _unknown(_axes: Any, _drawn: Drawn) -> Chart:
    return {"elements": []}


_MAKERS: Dict[str, Callable[[Any, Drawn], Chart]] = {
    "line": _line,
    "scatter": _scatter,
    "bar": _bar,
    "pie": _pie,
    "box_and_whisker": _box,
    "unknown": _unknown,
}
