"""Box plots as data: matplotlib keeps only the drawn boxes and lines, so the numbers are read back from those."""

import math
from typing import Any, Dict, List, Tuple

from . import axes_data as data

Span = Tuple[float, float]


def of_axes(axes: Any, filled: List[Any], outlined: List[Any]) -> Tuple[List[Dict[str, Any]], bool]:
    """One element per box, and whether the boxes lie on their sides.

    `filled`: boxes that are patches. `outlined`: those that are lines, where there are no patches.
    """
    boxes = [patch.get_path().vertices for patch in filled] or [line.get_xydata() for line in outlined]
    lines = [(str(line.get_label()), line.get_xydata()) for line in axes.get_lines() if line not in outlined]
    horizontal = bool(boxes) and not _has_whisker(boxes[0], [line for _, line in lines])
    return [_element(axes, box, lines, 1 if horizontal else 0) for box in boxes], horizontal


def outlines(lines: List[Any]) -> List[Any]:
    """Those lines that are the boxes of a box plot, if all lines belong to one: none lies apart, and each box has a median."""
    found = [line for line in lines if _is_outline(line.get_xydata())]
    boxes = [line.get_xydata() for line in found]
    others = [points for line in lines if line not in found and len(points := line.get_xydata())]
    for across in (0, 1):
        spans = [_span(box, across) for box in boxes]
        apart = [
            not any(low <= least and most <= high for low, high in spans)
            for least, most in (_span(line, across) for line in others)
        ]
        medians = [
            _is_notched(box) or any(_is_median(line, box, across) for line in others if len(line) == 2) for box in boxes
        ]
        if found and all(medians) and not any(apart):
            return found
    return []


def _is_outline(points: Any) -> bool:
    """Whether this is the line around a box: a rectangle, or one with a notch on each side."""
    if len(points) not in (5, 11) or list(points[0]) != list(points[-1]):
        return False
    corners = [points[0], points[1], points[(len(points) - 1) // 2], points[-2] if len(points) == 5 else points[-5]]
    return _is_rectangle(corners, 0) or _is_rectangle(corners, 1)


def _is_rectangle(corners: List[Any], across: int) -> bool:
    first, second, third, fourth = ((float(one[across]), float(one[1 - across])) for one in corners)
    return first[0] == fourth[0] != second[0] == third[0] and first[1] == second[1] and third[1] == fourth[1]


def _has_whisker(box: Any, lines: List[Any]) -> bool:
    """Whether a line leaves the box upwards or downwards."""
    low, high = _edges(box, 1)
    upright = [line for line in lines if _lies_on(line, 0, _middle(box, 0)) and len(line) == 2]
    return any(_span(line, 1)[0] < low or _span(line, 1)[1] > high for line in upright) or any(
        _span(line, 1) in ((low, low), (high, high)) for line in upright
    )


def _element(axes: Any, box: Any, lines: List[Tuple[str, Any]], across: int) -> Dict[str, Any]:
    """`across`: the coordinate (0 is x) in which the boxes stand side by side."""
    along = 1 - across
    position = _middle(box, across)
    low, high = _edges(box, along)
    pairs = [line for _, line in lines if len(line) == 2]
    medians = [float(line[0][along]) for line in pairs if _is_median(line, box, across)]  # a mean's line may follow
    ends = [end for line in pairs if _lies_on(line, across, position) for end in _span(line, along)]
    return {
        "label": data.name_at(axes.yaxis if across else axes.xaxis, position),
        "min": min([low, *ends]),
        "first_quartile": low,
        "median": float(box[3][along]) if _is_notched(box) else next(iter(medians), low),
        "third_quartile": high,
        "max": max([high, *ends]),
        "outliers": _outliers(lines, across, position),
    }


def _outliers(lines: List[Tuple[str, Any]], across: int, position: float) -> List[float]:
    """The points at a box's position. matplotlib gives lines of outliers this label, empty ones too; a dot without it is a mean."""
    labelled = any(label == "_nolegend_" and len(line) != 2 for label, line in lines)
    dots = [line for label, line in lines if len(line) != 2 and (label == "_nolegend_" or not labelled)]
    return [float(point[1 - across]) for line in dots if _lies_on(line, across, position) for point in line]


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
