"""Sandpit: self-hosted sandboxes for AI-generated code.

`from sandpit import Sandbox` and all other names of the SDK come from `sandpit.sdk` when they are first asked for: the
server and the guest import this package too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandpit.sdk import *  # noqa: F403

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name[:1].isupper() or name == "text_for_llm":  # what else is asked for are modules
        import importlib

        sdk = importlib.import_module("sandpit.sdk")
        if name in sdk.__all__:
            return getattr(sdk, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    import importlib

    return sorted({*globals(), *importlib.import_module("sandpit.sdk").__all__})
