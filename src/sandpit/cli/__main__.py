"""`python -m sandpit.cli` is `sandpit`."""

from sandpit.cli.main import main

main()
