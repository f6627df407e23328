"""`run.py stage1 NAME ...`: enter the writable root, then become the guest program NAME."""

from __future__ import annotations

import importlib
import sys

from sandpit.guest.stage1 import enter


def main() -> None:
    """Run as the sandbox's first process; the program keeps pid 1."""
    enter()
    del sys.argv[0]
    importlib.import_module(f"sandpit.guest.{sys.argv[0]}.__main__").main()


if __name__ == "__main__":
    main()
