"""The program ``evenload``: the command line as a process of its own."""

import gc
import os
import sys
from contextlib import suppress

_INTERRUPTED = 130


def program() -> None:
    """Run the command line and exit; what the installed command ``evenload`` calls.

    Importing Numba makes a million objects and no garbage: looking for some, then and at the exit,
    took an eighth of a plan's time. Triton, which engines import, lists frozen objects as leaked.
    """
    gc.set_threshold(100_000, 20, 100)
    try:
        from evenload.cli import main

        code = main()
    except KeyboardInterrupt:
        # At once, while the traceback keeps alive what LLVM was working on: freeing it crashed. And
        # a thread that was interrupted as it started is unknown to its pool, which never ends it.
        sys.stderr.write("interrupted\n")
        with suppress(OSError):
            sys.stdout.flush()
        sys.stderr.flush()
        if "multiprocessing.util" in sys.modules:  # else it complains of a sweep's semaphores
            sys.modules["multiprocessing.util"]._exit_function()
        os._exit(_INTERRUPTED)
    if "triton" not in sys.modules:
        gc.freeze()
    sys.exit(code)


if __name__ == "__main__":
    program()
