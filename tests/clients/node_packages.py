"""Where the official JavaScript packages are: SANDPIT_TEST_NODE_MODULES, set by `./test`."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

NODE_MODULES = "SANDPIT_TEST_NODE_MODULES"
needs_node = pytest.mark.skipif(
    not (os.environ.get(NODE_MODULES) and shutil.which("node")),
    reason=f"{NODE_MODULES} is not set, or there is no node",
)


def node_modules() -> str:
    """The folder that holds `e2b`, `@e2b/code-interpreter` and `@e2b/cli`."""
    return os.environ[NODE_MODULES]


def node_environment(clients: Mapping[str, str]) -> dict[str, str]:
    """What a program of a user has: `clients`, and nothing of this test run."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, **clients, "NO_UPDATE_NOTIFIER": "1"}
