"""Charts as data, straight from matplotlib's and pandas' figures; tests/clients has what clients make of them."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import pytest

from sandpit.guest.interpreter.inkernel import charts

mpl.use("agg")
import matplotlib.pyplot as plt
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterator

# pandas does what the newest matplotlib would have done otherwise.
pytestmark = pytest.mark.filterwarnings("default:The locs attribute:matplotlib.MatplotlibDeprecationWarning")
BOXES = ([1, 2, 3, 4, 50], [2, 3, 4, 5, 6])


@pytest.fixture(autouse=True)
def figure() -> Iterator[Any]:
    """A fresh figure for `plt`."""
    plt.close("all")
    yield
    plt.close("all")


def chart(code: str) -> Any:
    """The chart of the figure that `code` draws, as JSON brings it to clients."""
    exec(code, {"plt": plt, "pd": pd, "dt": dt, "BOXES": BOXES})
    return json.loads(json.dumps(charts.of_figure(plt.gcf()), allow_nan=False))


def told(one: Any) -> Any:
    """Kind and values of a chart, short."""
    kind, elements = one["type"], one["elements"]
    if kind == "superchart":
        return kind, [told(part) for part in elements]
    if kind == "bar":
        return kind, [(part["group"], part["label"], part["value"]) for part in elements]
    if kind == "pie":
        return kind, [(part["label"], part["angle"]) for part in elements]
    if kind == "box_and_whisker":
        names = ("label", "min", "first_quartile", "median", "third_quartile", "max")
        return kind, [(*(part[name] for name in names), part["outliers"]) for part in elements]
    return kind, [(part["label"], [tuple(point) for point in part["points"]]) for part in elements]


AB = [("Group 0", "a", 1), ("Group 0", "b", 2)]
BARS = "plt.bar(['a', 'b'], [1, 2])"
RISING = [(1, 1), (2, 2), (3, 3)]
LINE = "plt.plot([1, 2, 3], [1, 2, 3], label='l')"
DOTS = "plt.scatter([1, 2], [3, 4], label='s')"
PIE = [("a", 90), ("b", 270)]
TWO_BOXES = [("1", 1, 2, 3, 4, 4, [50]), ("2", 2, 3, 4, 5, 6, [])]


@pytest.mark.parametrize(
    "code",
    [
        "plt.bar(['a', 'b'], [1, 2], yerr=[0.1, 0.2], capsize=4)",
        "plt.barh(['a', 'b'], [1, 2], xerr=0.1)",
        f"{BARS}; plt.errorbar([0, 1], [1, 2], yerr=[[0.1, 0.2], [0.2, 0.1]], fmt='none', capsize=3)",
        f"{BARS}; plt.axhline(1.5); plt.axhspan(1, 2); plt.vlines([0.5], 0, 2); plt.grid(which='both'); plt.legend(['x'])",
        f"{BARS}; plt.text(0, 1, 't'); plt.annotate('x', (0, 1), (1, 2), arrowprops={{}}); plt.arrow(0, 0, 1, 1)",
        f"plt.bar_label({BARS}); plt.table([['1', '2']]); plt.gca().add_patch(plt.Circle((0, 0), 1))",
        "plt.plot([0, 0, float('nan'), 1, 1], [1, 2, float('nan'), 1, 3]);" + BARS,  # error bars as seaborn draws them
    ],
)
def test_bars_with_additions(code: str) -> None:
    assert told(chart(code)) == ("bar", AB)


def test_kinds_of_bars() -> None:
    grouped = (
        "plt.bar([-0.2, 0.8], [1, 2], 0.4, yerr=1, label='A'); plt.bar([0.2, 1.2], [3, 4], 0.4, label='B', yerr=1); "
    )
    both = [("A", "p", 1), ("A", "q", 2), ("B", "p", 3), ("B", "q", 4)]
    assert told(chart(grouped + "plt.xticks([0, 1], ['p', 'q'])")) == ("bar", both)
    plt.close()
    stacked = "plt.bar(['p', 'q'], [1, 2], label='A'); plt.bar(['p', 'q'], [3, 4], bottom=[1, 2], label='B', yerr=1)"
    assert told(chart(stacked)) == ("bar", both)
    plt.close()
    lying = chart("plt.barh(['p', 'q'], [1, 2], xerr=1); plt.xlabel('n (kg)'); plt.ylabel('who')")
    assert (lying["x_label"], lying["y_label"], lying["y_unit"]) == ("who", "n (kg)", "kg")
    plt.close()
    dates = chart("plt.bar([dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 2)], [1, 2])")
    assert [one["label"] for one in dates["elements"]] == ["2024-01-01T00:00:00", "2024-01-02T00:00:00"]


@pytest.mark.parametrize("kind", ["bar", "step", "stepfilled"])
def test_histograms(kind: str) -> None:
    made = told(chart(f"plt.hist([0, 1.5, 1.5, 3], bins=[0, 1, 2, 3], histtype={kind!r}, label='h')"))
    assert made == ("bar", [("h", "0.5", 1), ("h", "1.5", 2), ("h", "2.5", 1)])


def test_stairs() -> None:
    assert told(chart("plt.stairs([1, 2], [0, 2, 4], label='s')")) == ("bar", [("s", "1", 1), ("s", "3", 2)])


@pytest.mark.parametrize(
    "code",
    [
        "plt.errorbar([1, 2, 3], [1, 2, 3], yerr=0.1, label='l')",
        "plt.errorbar([1, 2, 3], [1, 2, 3], xerr=0.1, yerr=[0.1, 0.2, 0.3], capsize=3, fmt='o', label='l')",
        f"{LINE}; plt.fill_between([1, 2, 3], [0, 1, 2], [2, 3, 4])",
        f"{LINE}; plt.axvline(2); plt.axvspan(1, 2); plt.axline((0, 0), (1, 1)); plt.hlines([1], 0, 1); plt.legend()",
        "plt.stem([1, 2, 3], [1, 2, 3], label='l')",
        "plt.step([1, 2, 3], [1, 2, 3], label='l')",
        "plt.fill_between([1, 2, 3], [1, 2, 3], label='l')",
        "pd.DataFrame({'l': [1, 2, 3]}, index=[1, 2, 3]).plot(yerr=0.1)",
    ],
)
def test_lines_with_additions(code: str) -> None:
    assert told(chart(code)) == ("line", [("l", RISING)])


@pytest.mark.parametrize(
    "code",
    [
        "plt.stackplot([0, 1], [1, 2], [3, 4], labels=['a', 'b'])",
        "pd.DataFrame({'a': [1, 2], 'b': [3, 4]}).plot.area()",
    ],
)
def test_stacked_areas(code: str) -> None:
    """Each with its own height, as stacked bars."""
    assert told(chart(code)) == ("line", [("a", [(0, 1), (1, 2)]), ("b", [(0, 3), (1, 4)])])


def test_dots_with_additions() -> None:
    dots = ("s", [(1, 3), (2, 4)])
    code = (
        f"{DOTS}; plt.errorbar([1, 2], [3, 4], yerr=1, fmt='none', capsize=2); plt.colorbar(plt.gca().collections[0])"
    )
    assert told(chart(code)) == ("scatter", [dots])
    plt.close()
    assert told(chart(f"{DOTS}; {LINE}")) == ("scatter", [dots, ("l", RISING)])
    plt.close()
    assert told(chart(f"{LINE}; {DOTS}")) == ("line", [("l", RISING), dots])


def test_data_of_two_kinds() -> None:
    """Bars and lines have different elements: a chart of each, as of two axes."""
    mixed = chart(f"{BARS}; plt.plot(['a', 'b'], [3, 4], label='l'); plt.title('T')")
    assert told(mixed) == ("superchart", [("bar", AB), ("line", [("l", [("a", 3), ("b", 4)])])])
    assert mixed["title"] == "T"
    plt.close()
    twins = chart(f"{LINE}; plt.twinx().bar([1, 2], [3, 4], yerr=1)")
    assert told(twins) == (
        "superchart",
        [("line", [("l", RISING)]), ("bar", [("Group 0", "1", 3), ("Group 0", "2", 4)])],
    )
    plt.close()
    assert told(chart(f"plt.boxplot(BOXES); {DOTS}"))[1][0] == ("box_and_whisker", TWO_BOXES)


@pytest.mark.parametrize(
    "code",
    [
        "plt.pie([1, 3], labels=['a', 'b'], explode=[0, 0.1], shadow=True, autopct='%.0f')",
        "plt.pie([1, 3], labels=['a', 'b'], wedgeprops={'width': 0.4}); plt.gca().add_artist(plt.Circle((0, 0), 0.6))",
        "plt.legend(plt.pie([1, 3])[0], ['a', 'b'])",
        "pd.Series([1, 3], index=['a', 'b']).plot.pie()",
    ],
)
def test_pies(code: str) -> None:
    assert told(chart(code)) == ("pie", PIE)


@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize(
    "options", ["", "notch=True", "showmeans=True", "showmeans=True, meanline=True", "showcaps=False"]
)
def test_box_plots(options: str, filled: bool) -> None:
    code = f"plt.boxplot(BOXES, patch_artist={filled}, {options})"
    assert told(chart(code)) == ("box_and_whisker", TWO_BOXES)
    plt.close()
    lying = code.replace("patch", "orientation='horizontal', patch")
    assert told(chart(lying)) == ("box_and_whisker", TWO_BOXES)


def test_rectangles_of_lines_are_no_box_plot() -> None:
    assert chart("plt.plot([0, 1, 1, 0, 0], [0, 0, 1, 1, 0])")["type"] == "line"


def test_periods() -> None:
    made = chart("pd.Series([1, 2], index=pd.date_range('2024-01-01', periods=2, freq='D')).plot()")
    assert made["elements"][0]["points"] == [["2024-01-01T00:00:00", 1], ["2024-01-02T00:00:00", 2]]
    assert made["x_scale"] == "datetime"
    assert made["x_ticks"][0].startswith("2024-01-01T00:00:00")


@pytest.mark.parametrize(
    "code", ["plt.imshow([[1, 2], [3, 4]]); plt.plot([0, 1, 1])", "plt.violinplot(BOXES)", "plt.hexbin([1, 2], [1, 2])"]
)
def test_what_has_no_chart(code: str) -> None:
    assert told(chart(code)) == ("unknown", [])
