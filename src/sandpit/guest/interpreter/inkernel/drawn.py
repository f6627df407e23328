"""What is drawn in an axes, by what it says: data of each kind, and additions that hold none."""

from importlib import import_module
from typing import Any, Dict, List, Optional, Tuple

from . import axes_data as data
from . import boxes

Curve = Tuple[str, Any, Any]
"""Label, x values, y values."""

_ADDITIONS = (
    ("matplotlib.collections", "LineCollection"),  # vlines, hlines, bars of errors, stems
    ("matplotlib.table", "Table"),
    ("matplotlib.offsetbox", "OffsetBox"),
    ("matplotlib.offsetbox", "AnnotationBbox"),
)


class Drawn:
    """The artists of an axes."""

    def __init__(self, axes: Any) -> None:
        patches = import_module("matplotlib.patches")
        self._axes = axes
        self._artists = data.artists(axes)
        names, additions = _of_containers(axes)
        self.bars = [
            one for one in axes.containers if isinstance(one, import_module("matplotlib.container").BarContainer)
        ]
        self.wedges = [one for one in axes.patches if isinstance(one, patches.Wedge)]
        self.stairs = [one for one in axes.patches if _is_a(one, "matplotlib.patches", "StepPatch")]
        self.steps = [
            (str(one.get_label() or ""), *steps) for one in axes.patches if (steps := _steps(one)) is not None
        ]
        self.dots = [one for one in axes.collections if _is_a(one, "matplotlib.collections", "PathCollection")]
        self.areas = [one for one in axes.collections if _is_area(one)]
        self.boxes = [one for one in axes.patches if isinstance(one, patches.PathPatch) and one not in self.stairs]
        self.outlines = [] if self.boxes else boxes.outlines(list(axes.get_lines()))
        self.lines: List[Curve] = [
            (names.get(line, str(line.get_label())), line.get_xdata(), line.get_ydata())
            for line in axes.get_lines()
            if line not in additions and len(line.get_xdata()) and not data.is_guide(line) and not _is_endless(line)
        ]

    @property
    def has_boxes(self) -> bool:
        """Whether there is a box plot: all lines belong to it then."""
        return bool(self.boxes or self.outlines)

    @property
    def all_known(self) -> bool:
        """Whether there is nothing besides lines, dots, areas, patches and additions: no image, no mesh, no vectors."""
        return all(map(self._is_known, self._artists))

    @property
    def dots_first(self) -> bool:
        """Whether dots were drawn before the first line."""
        line = import_module("matplotlib.lines").Line2D
        first = next(
            (one for one in self._artists if one in self.dots or (isinstance(one, line) and not data.is_guide(one))),
            None,
        )
        return first in self.dots

    @property
    def curves(self) -> List[Curve]:
        """The lines; instead of lines without names, the areas below them if those have names, as pandas draws them."""
        named = [label for label, _, _ in self.lines if not label.startswith("_")]
        areas = [area for area in self.areas if not str(area.get_label()).startswith("_")]
        return self._edges_of_areas() if not named and len(areas) >= len(self.lines) else self.lines

    def _edges_of_areas(self) -> List[Curve]:
        """The upper edge of each filled area; of those that are stacked on another, their height."""
        curves: List[Curve] = []
        below: Optional[List[float]] = None
        for area in self.areas:
            found = _edges(area)
            if found is not None:
                x, lower, upper = found
                values = [high - low for low, high in zip(lower, upper)] if lower == below else upper
                curves.append((str(area.get_label()), x, values))
                below = upper
        return curves

    def _is_known(self, artist: Any) -> bool:
        if artist in self.dots or artist in self.areas:
            return True
        kinds = (("matplotlib.lines", "Line2D"), ("matplotlib.patches", "Patch"), *_ADDITIONS)
        return any(_is_a(artist, module, name) for module, name in kinds)


def _of_containers(axes: Any) -> Tuple[Dict[Any, str], List[Any]]:
    """Names of lines that stand on their container, and lines that say nothing of their own: caps of error bars, a stem's base."""
    names: Dict[Any, str] = {}
    additions: List[Any] = []
    for at, container in enumerate(axes.containers):
        label = data.numbered(str(container.get_label()), "_container", "Line")
        if _is_a(container, "matplotlib.container", "ErrorbarContainer"):
            line, caps, _ = container.lines
            additions.extend(caps)
        elif _is_a(container, "matplotlib.container", "StemContainer"):
            line = container.markerline
            additions.append(container.baseline)
        else:
            continue
        if line is not None and str(line.get_label()).startswith("_"):
            names[line] = f"Line {at}" if label.startswith("_") else label
    return names, additions


def _is_a(artist: Any, module: str, name: str) -> bool:
    """`isinstance`, also where this matplotlib has no such class."""
    kind = getattr(import_module(module), name, None)
    return kind is not None and isinstance(artist, kind)


def _is_endless(line: Any) -> bool:
    return _is_a(line, "matplotlib.lines", "AxLine")


def _is_area(artist: Any) -> bool:
    """Whether this was filled between two curves over x; an outline over y is a violin's."""
    return _is_a(artist, "matplotlib.collections", "FillBetweenPolyCollection") and artist.t_direction == "x"


def _edges(area: Any) -> Optional[Tuple[List[float], List[float], List[float]]]:
    """x, lower and upper edge of an area in one piece: its outline goes along the first curve and back along the second."""
    paths = area.get_paths()
    if len(paths) != 1 or len(paths[0].vertices) % 2 == 0:
        return None
    points = paths[0].vertices.tolist()
    count = (len(points) - 3) // 2
    there, back = points[1 : count + 1], points[count + 2 : 2 * count + 2][::-1]
    x, first, second = [one[0] for one in there], [one[1] for one in there], [one[1] for one in back]
    return (x, second, first) if sum(first) >= sum(second) else (x, first, second)


def _steps(patch: Any) -> Optional[Tuple[List[float], List[float]]]:
    """Edges and heights of a histogram's outline: up and down, then to the right, twice at least."""
    if not _is_a(patch, "matplotlib.patches", "Polygon"):
        return None
    points = patch.get_xy().tolist()
    edges, heights = [points[0][0]], []
    for before, corner, after in zip(points[::2], points[1::2], points[2::2]):
        if before[0] != corner[0] or corner[1] != after[1] or after[0] <= corner[0]:
            break
        edges.append(after[0])
        heights.append(corner[1])
    return (edges, heights) if len(heights) > 1 else None
