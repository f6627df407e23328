"""How much a request may hold. The one home of these numbers: the API's fields and parameters take them from here, docs/api.md shows them.

They are generous for what official clients do, and small enough that checking and storing the largest request takes milliseconds.
Characters are Unicode code points; bytes are those of UTF-8. Beside them, `max_body_bytes` (settings) limits a body as a whole.
"""

from __future__ import annotations

MAX_DEPTH = 32
"""Lists and objects within each other, in a JSON body."""
MAX_VALUES = 50_000
"""Values in a JSON body: members of objects, elements of lists."""
MAX_INTEGER = 2**53
"""Whole numbers in a JSON body: as far as every JSON implementation is exact (RFC 8259, 6)."""

MAX_TEMPLATE = 400
"""Characters of a template's or snapshot's name with namespace and tag."""
MAX_ID = 512
"""Characters of one segment of a path."""
MAX_NAME = 200
"""Characters of names for people: of keys, teams."""

MAX_METADATA_PAIRS = 128
"""Metadata pairs of a sandbox; also of a list's filter."""
MAX_METADATA_KEY = 512
MAX_METADATA_VALUE = 16 * 1024
MAX_METADATA_BYTES = 128 * 1024
"""All keys and values of a sandbox's metadata together."""

MAX_VARIABLES = 1000
"""Environment variables of a sandbox."""
MAX_VARIABLE_NAME = 256
MAX_VARIABLE_VALUE = 64 * 1024
MAX_VARIABLES_BYTES = 256 * 1024
"""All names and values together: Linux gives a program 2 MiB for its arguments and its environment."""

MAX_EGRESS_RULES = 1000
"""Entries of `allowOut`, and of `denyOut`."""
MAX_EGRESS_RULE = 255
MAX_DNS_SERVERS = 10
MAX_HTTPS_PORTS = 128
MAX_HOST = 255
MAX_REFUSED = 100
"""Members of an object, or of a list, that this server refuses or ignores whatever it holds."""

MAX_FORKS = 100
"""Copies that one request makes of a sandbox."""

MAX_MCP_SERVERS = 200
"""Members of `mcp`."""
MAX_MCP_BYTES = 256 * 1024
"""Its JSON."""

MAX_TAGS = 100
MAX_TAG = 128
MAX_STEPS = 1000
MAX_STEP_ARGUMENTS = 2000
MAX_STEP_ARGUMENT = 128 * 1024
MAX_STEP_TYPE = 32
MAX_COMMAND = 64 * 1024
"""Bytes of a start or ready command."""
MAX_IMAGE = 512
MAX_CREDENTIAL = 16 * 1024
"""Of a registry: a user's name, a password, a service account."""
MAX_FILES_HASH = 64

MAX_QUERY_BYTES = 48 * 1024
"""A query string as it is sent."""
MAX_QUERY_PARAMETERS = 300
MAX_METADATA_FILTER = 32 * 1024
MAX_TOKEN = 512
"""A list's `nextToken`."""
MAX_SEARCH = 1000
MAX_TIME = 64
MAX_PAGE = 100
"""Items of a page, by default and at most; also ids in one request."""

MAX_MESSAGE = 1000
"""Characters of an error message, here and in answers: what was sent is not sent back by the megabyte."""


def shortened(text: str, limit: int = MAX_MESSAGE) -> str:
    """`text` with its middle left out if it is longer than `limit`, and without what cannot be encoded."""
    if len(text) > limit:
        start = limit * 2 // 3
        text = f"{text[:start]} [{len(text) - limit} characters left out] {text[start - limit :]}"
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
