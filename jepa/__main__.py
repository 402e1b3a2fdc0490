"""`python -m jepa COMMAND ...`: the same as `jepa COMMAND ...`."""

import sys

from jepa import cli

if __name__ == "__main__":
    sys.exit(cli.main())
