"""Box plots as data: matplotlib keeps only the drawn boxes and lines, so the numbers are read back from those."""

import math
from typing import Any, Dict, List, Tuple

from . import axes_data as data

Span = Tuple[float, float]


def of_axes(axes: Any) -> Tuple[List[Dict[str, Any]], bool]:
    """One element per filled box, and whether the boxes lie on their sides."""
    boxes = [patch.get_path().vertices for patch in axes.patches]
    lines = [line.get_xydata() for line in axes.get_lines()]
    horizontal = bool(boxes) and not _has_whisker(boxes[0], lines)
    return [_element(axes, box, lines, 1 if horizontal else 0) for box in boxes], horizontal


def _has_whisker(box: Any, lines: List[Any]) -> bool:
    """Whether a line leaves the box upwards or downwards."""
    low, high = _edges(box, 1)
    upright = [line for line in lines if _lies_on(line, 0, _middle(box, 0)) and len(line) == 2]
    return any(_span(line, 1)[0] < low or _span(line, 1)[1] > high for line in upright) or any(
        _span(line, 1) in ((low, low), (high, high)) for line in upright
    )


def _element(axes: Any, box: Any, lines: List[Any], across: int) -> Dict[str, Any]:
    """`across`: the coordinate (0 is x) in which the boxes stand side by side."""
    along = 1 - across
    position = _middle(box, across)
    low, high = _edges(box, along)
    median = float(box[3][along]) if _is_notched(box) else low
    ends = [low, high]
    outliers: List[float] = []
    for line in lines:
        if len(line) == 2 and _lies_on(line, across, position):
            ends.extend(_span(line, along))
        elif len(line) == 2 and _is_median(line, box, across):
            median = float(line[0][along])
        elif len(line) and len(line) != 2 and _lies_on(line, across, position):
            outliers.extend(float(point[along]) for point in line)
    return {
        "label": data.name_at(axes.yaxis if across else axes.xaxis, position),
        "min": min(ends),
        "first_quartile": low,
        "median": median,
        "third_quartile": high,
        "max": max(ends),
        "outliers": outliers,
    }


def _span(points: Any, at: int) -> Span:
    values = [float(point[at]) for point in points]
    return min(values), max(values)


def _edges(box: Any, at: int) -> Span:
    """Where a box begins and ends; a notch, which marks how sure the median is, can reach beyond both."""
    return _span([box[0], box[(len(box) - 1) // 2]], at)


def _is_notched(box: Any) -> bool:
    """A plain box has four corners and two more points that close it; with a notch, the fourth point is the median's."""
    return len(box) > 6


def _middle(box: Any, at: int) -> float:
    return sum(_span(box, at)) / 2


def _lies_on(line: Any, at: int, position: float) -> bool:
    return len(line) > 0 and all(math.isclose(float(point[at]), position, abs_tol=1e-9) for point in line)


def _is_median(line: Any, box: Any, across: int) -> bool:
    """Caps cross the whiskers' ends in the same way, but are narrower than the box or lie outside it."""
    (left, right), (low, high) = _span(box, across), _edges(box, 1 - across)
    start, end = _span(line, across)
    level = float(line[0][1 - across])
    level_is_flat = level == float(line[1][1 - across])
    return level_is_flat and math.isclose(start, left) and math.isclose(end, right) and low <= level <= high
