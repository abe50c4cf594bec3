"""``python -m evenload``: the same as the command ``evenload``."""

from evenload.cli import main

if __name__ == "__main__":
    main()
