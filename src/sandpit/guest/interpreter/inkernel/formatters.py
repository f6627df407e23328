"""How values become results: data of frames, charts of figures, JSON of lists and dicts (code-interpreter 2.7)."""

import datetime as dt
import importlib
import json
import math
import sys
from typing import Any, Dict, Optional


def install(shell: Any) -> None:
    """Add our MIME types to the kernel's display machinery."""
    data = _formatter(shell, "e2b/data", "_repr_e2b_data_")
    data.for_type_by_name("pandas", "DataFrame", frame_data)  # pandas 3 names its public module
    data.for_type_by_name("pandas.core.frame", "DataFrame", frame_data)
    _formatter(shell, "e2b/chart", "_repr_e2b_chart_", {"lookup": _chart_lookup})
    plain_json = shell.display_formatter.formatters["application/json"]
    plain_json.for_type(dict, container_json)
    plain_json.for_type(list, container_json)


def _formatter(shell: Any, mime: str, method: str, members: Optional[Dict[str, Any]] = None) -> Any:
    traitlets = importlib.import_module("traitlets")
    base = importlib.import_module("IPython.core.formatters").BaseFormatter
    kind = type(
        "SandpitFormatter",
        (base,),
        {
            "format_type": traitlets.Unicode(mime),
            "print_method": traitlets.ObjectName(method),
            "_return_type": (dict, str),
            **(members or {}),
        },
    )
    formatter = kind(parent=shell.display_formatter)
    shell.display_formatter.formatters[mime] = formatter
    return formatter


def _chart_lookup(formatter: Any, value: Any) -> Any:
    """Who makes a chart of `value`.

    Figures are not registered like other types: matplotlib's inline back end, when it is chosen (the first import of
    pyplot), takes them out of every formatter.
    """
    figure = getattr(sys.modules.get("matplotlib.figure"), "Figure", None)
    if figure is not None and isinstance(value, figure):
        return figure_chart
    return super(type(formatter), formatter).lookup(value)


def figure_chart(figure: Any) -> Any:
    """The chart of a matplotlib figure; `{}` if there is none that could be told."""
    from . import charts

    try:
        return charts.of_figure(figure)
    except Exception:  # noqa: BLE001 - an odd figure must not cost the user the picture
        return {}


def frame_data(frame: Any) -> Any:
    """Columns of a data frame as lists."""
    return {str(name): [_cell(value) for value in frame.iloc[:, at].tolist()] for at, name in enumerate(frame.columns)}


def container_json(value: Any) -> Optional[Any]:
    """A list or dict as JSON; None (no such format) if something in it has no JSON form."""
    try:
        converted = _convert(value)
        json.dumps(converted, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None
    return converted


def _cell(value: Any) -> Any:
    """A value of a data frame; what has no JSON form becomes its text."""
    if value is None or _is_missing(value):
        return None
    try:
        return _convert(value)
    except TypeError:
        return str(value)


def _convert(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _convert(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_convert(item) for item in value]
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, (numpy.generic, numpy.ndarray)):
        return _convert(value.tolist())
    raise TypeError(type(value).__name__)


def _is_missing(value: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and (value is pandas.NaT or value is getattr(pandas, "NA", None))
