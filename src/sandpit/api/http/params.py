"""Query parameters, as routes declare them: each has a limit, and a form that the API's description shows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from sandpit.control import limits

MAX_QUERY_INTEGER = 10**18 - 1
WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Param:
    """One query parameter."""

    name: str
    about: str
    length: int = limits.MAX_NAME
    """Characters of a value, decoded."""
    form: Literal["text", "integer", "time"] = "text"
    items: int = 1
    """How many values it may have: given several times, or with commas between them."""
    choices: tuple[str, ...] = ()


LIMIT = Param("limit", "items of a page, at most", 20, "integer")
NEXT_TOKEN = Param("nextToken", "the header X-Next-Token of the page before", limits.MAX_TOKEN)
METADATA = Param("metadata", "pairs key=value joined by &, each percent-encoded", limits.MAX_METADATA_FILTER)
STATE = Param("state", "running, paused", 100, items=16, choices=("running", "paused"))
ORDER = Param("order", "by start time", 10, choices=("asc", "desc"))
STARTED_AFTER = Param("startedAfter", "RFC 3339 time with an offset", limits.MAX_TIME, "time")
TEMPLATE = Param("template", "id or name of a template", limits.MAX_TEMPLATE)
SANDBOX_IDS = Param("sandbox_ids", "ids of sandboxes", 64 * limits.MAX_PAGE, items=limits.MAX_PAGE)
SANDBOX_ID = Param("sandboxID", "of a sandbox whose snapshots are wanted", limits.MAX_ID)
NAME = Param("name", "of a snapshot", limits.MAX_TEMPLATE)
START_SECONDS = Param("start", "Unix seconds", 20, "integer")
END_SECONDS = Param("end", "Unix seconds", 20, "integer")
START_MS = Param("start", "Unix milliseconds", 20, "integer")
CURSOR_MS = Param("cursor", "Unix milliseconds", 20, "integer")
DIRECTION = Param("direction", "from the cursor on", 10, choices=("forward", "backward"))
LEVEL = Param("level", "the least level of lines", 10, choices=("debug", "info", "warn", "error"))
LOGGERS = Param("loggers", "names of loggers with commas between them", 1000, items=16)
SEARCH = Param("search", "text that the message contains", limits.MAX_SEARCH)
LOGS_OFFSET = Param("logsOffset", "lines to skip", 20, "integer")
OFFSET = Param("offset", "lines to skip", 20, "integer")
TEAM_ID = Param("teamID", "the key's own team", limits.MAX_ID)
