"""``python -m evenload``: the same as the command ``evenload``."""

import sys

from evenload.cli import main

if __name__ == "__main__":
    sys.exit(main())
