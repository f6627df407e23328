"""Where `sandpit` starts: it needs nothing but Python, so that it can say which packages the command needs."""

from __future__ import annotations

import sys

_EXTRAS = {"typer": "cli", "mcp": "mcp"}
"""Packages that only some commands need, and the extra that brings them. What else is missing is the server's."""


def main() -> None:
    """Run the command line; a package that is missing is an error with a hint, exit status 1."""
    try:
        from sandpit.cli.main import main as run

        run()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "sandpit"):
            raise  # a defect of ours, not of the installation
        extra = _EXTRAS.get(package, "server")
        print(  # noqa: T201 (typer's echo may be what is missing)
            f"error: this command needs the package {package!r}, which is not installed\n"
            f" hint: {sys.executable} -m pip install 'sandpit[{extra}]' (from Sandpit's directory: '.[{extra}]')",
            file=sys.stderr,
        )
        sys.exit(1)
