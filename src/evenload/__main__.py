"""The program ``evenload``: the command line as a process of its own."""

import gc
import sys

from evenload.cli import main


def program() -> None:
    """Run the command line and exit; what the installed command ``evenload`` calls.

    Importing Numba makes a million objects and no garbage: looking for some, then and at the exit,
    took an eighth of a plan's time. Triton, which engines import, lists frozen objects as leaked.
    """
    gc.set_threshold(100_000, 20, 100)
    code = main()
    if "triton" not in sys.modules:
        gc.freeze()
    sys.exit(code)


if __name__ == "__main__":
    program()
