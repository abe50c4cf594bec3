"""``evenload warmup``: compile everything ahead."""

from __future__ import annotations

import sys
import time
from argparse import Namespace

from evenload.cli import output

EXAMPLES = """
Examples:
  evenload warmup
  NUMBA_CACHE_DIR=/var/cache/evenload evenload warmup
"""


def run(args: Namespace) -> None:
    """Compile and cache all kernels ahead of time.

    Later calls then do not wait for the compiler. Run it once after installing, for example while
    building a container image.
    """
    from evenload import warmup

    started = time.perf_counter()
    with output.busy("compiling kernels"):
        warmup()
    sys.stdout.write(f"all kernels ready in {time.perf_counter() - started:.2f} s\n")
