"""`python -m sandpit.cli` is `sandpit`."""

from sandpit.cli.entry import main

main()
