"""`run.py export`."""

from __future__ import annotations

from sandpit.guest.export import export


def main() -> None:
    """Write what the sandbox has written."""
    export()


if __name__ == "__main__":
    main()
