"""What a cell's execution answers: results, logs, error; and the same as text for a language model."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sandpit.sdk.models import ProcessMessage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandpit.sdk.charts import Chart

_MIME = {
    "text": "text/plain",
    "html": "text/html",
    "markdown": "text/markdown",
    "svg": "image/svg+xml",
    "png": "image/png",
    "jpeg": "image/jpeg",
    "pdf": "application/pdf",
    "latex": "text/latex",
    "json": "application/json",
    "javascript": "application/javascript",
    "data": "e2b/data",
    "chart": "e2b/chart",
}
"""The representations of a result, in the order in which `formats()` names them."""


class Result:
    """Something that a cell displayed, or the value of its last expression, in one or more representations.

    The value of a last expression always has `text`; the others are None where they do not exist.
    """

    text: str | None
    html: str | None
    markdown: str | None
    svg: str | None
    """XML text."""
    png: str | None
    """Base64."""
    jpeg: str | None
    """Base64."""
    pdf: str | None
    """Base64."""
    latex: str | None
    json: Any
    javascript: str | None
    data: dict[str, list[Any]] | None
    """Of a pandas DataFrame: its columns."""
    chart: Chart | None
    """Of a matplotlib figure: what it shows."""
    extra: dict[str, Any]
    """Other representations, by MIME type."""
    is_main_result: bool
    """Whether it is the value of the last expression."""
    raw: dict[str, Any]
    """All representations by MIME type."""

    def __init__(self, event: Mapping[str, Any]) -> None:
        """From a line of the interpreter's answer (code-interpreter 2.7)."""
        for name in _MIME:
            setattr(self, name, event.get(name))
        self.extra = dict(event.get("extra") or {})
        self.is_main_result = bool(event.get("is_main_result"))
        self.raw = {mime: event[name] for name, mime in _MIME.items() if name in event} | self.extra
        chart = event.get("chart")
        if isinstance(chart, dict):
            from sandpit.sdk.charts import parse_chart

            self.chart = parse_chart(chart)

    def formats(self) -> list[str]:
        """Names of the representations besides `text` that there are: `html`, `png`, `chart`, MIME types and so on."""
        return [name for name in _MIME if name != "text" and getattr(self, name)] + list(self.extra)

    def __getitem__(self, name: str) -> Any:
        """A representation by its name or MIME type. Raises: KeyError."""
        if name in self.raw:
            return self.raw[name]
        if name in _MIME:
            return getattr(self, name)
        raise KeyError(name)

    def __str__(self) -> str:
        return self.text if self.text is not None else f"formats: {', '.join(self.formats())}"

    def __repr__(self) -> str:
        return f"Result({self})"

    def _repr_mimebundle_(self, **_options: Any) -> dict[str, Any]:
        """How notebooks show it."""
        return dict(self.raw)


@dataclass(frozen=True, slots=True)
class Logs:
    """What a cell printed, in pieces as they came; a piece may hold several lines, and ends with their line ends."""

    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"stdout={self.stdout} stderr={self.stderr}"


@dataclass(frozen=True, slots=True)
class Error:
    """The exception that ended a cell."""

    name: str
    """`NameError` and the like."""
    value: str
    traceback: str

    @property
    def traceback_raw(self) -> list[str]:
        """The traceback's lines."""
        return self.traceback.splitlines()

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"


@dataclass(slots=True)
class Execution:
    """What became of a cell."""

    results: list[Result] = field(default_factory=list)
    """What it displayed, and the value of its last expression."""
    logs: Logs = field(default_factory=Logs)
    error: Error | None = None
    execution_count: int | None = None

    @property
    def text(self) -> str | None:
        """The text of the last expression's value."""
        return next((result.text for result in self.results if result.is_main_result), None)

    def to_json(self) -> str:
        """All of it as a JSON object; what is None is left out."""
        shown: dict[str, Any] = {
            "results": [
                {
                    name: result[name]
                    for name in ("text", *result.formats())
                    if result[name] is not None and name != "chart"
                }
                | ({"chart": result.chart.raw} if result.chart is not None else {})
                | {"is_main_result": result.is_main_result}
                for result in self.results
            ],
            "logs": {"stdout": self.logs.stdout, "stderr": self.logs.stderr},
        }
        if self.error is not None:
            error = self.error
            shown["error"] = {"name": error.name, "value": error.value, "traceback": error.traceback}
        if self.execution_count is not None:
            shown["execution_count"] = self.execution_count
        return json.dumps(shown)

    def to_llm(self) -> str:
        """All of it in words for a language model: the error, else the results, else the output."""
        return text_for_llm(self)

    def take(self, event: Mapping[str, Any]) -> ProcessMessage | Result | Error | None:
        """Add a line of the interpreter's answer; returns what callbacks are told (code-interpreter 2.5)."""
        kind = event.get("type")
        if kind in ("stdout", "stderr"):
            pieces = self.logs.stdout if kind == "stdout" else self.logs.stderr
            pieces.append(event["text"])
            return ProcessMessage(event["text"], _nanoseconds(event.get("timestamp")), error=kind == "stderr")
        if kind == "result":
            self.results.append(Result(event))
            return self.results[-1]
        if kind == "error":
            self.error = Error(event.get("name", ""), event.get("value", ""), event.get("traceback", ""))
            return self.error
        if kind == "number_of_executions":
            self.execution_count = event["execution_count"]
        return None


def text_for_llm(execution: Execution) -> str:
    """An execution in words for a language model: the error with its traceback, else the results, else the output."""
    if execution.error is not None:
        error = execution.error
        return f"There was an error during execution: {error.name}: {error.value}.\n{error.traceback}"
    if execution.results:
        lines = ["These are results of the execution:"]
        for number, result in enumerate(execution.results, 1):
            kind = "Main result" if result.is_main_result else "Display data"
            lines += [f"Result {number}:", f"[{kind}]: {result.text}"]
            if formats := result.formats():
                lines.append(f"It has the following formats: {', '.join(formats)}")
        return "\n".join(lines) + "\n"
    stdout, stderr = "".join(execution.logs.stdout), "".join(execution.logs.stderr)
    if stdout or stderr:
        text = "There was no result of the execution, but here are the logs:\n"
        return text + (f"Stdout: {stdout}\n" if stdout else "") + (f"Stderr: {stderr}\n" if stderr else "")
    return "There was no output of the execution."


def _nanoseconds(timestamp: Any) -> int:
    """Of an ISO 8601 time, or now."""
    try:
        return int(datetime.fromisoformat(timestamp).timestamp() * 1e6) * 1000
    except (TypeError, ValueError):
        return time.time_ns()
