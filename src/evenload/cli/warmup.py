"""``evenload warmup``: compile everything ahead."""

from __future__ import annotations

import time

import typer


def warmup() -> None:
    """Compile and cache all kernels ahead of time.

    No later call waits for it then. Run it once after installing, for example while building a
    container image.
    """
    from evenload.ahead import warmup as compile_all
    from evenload.cli.screen import busy

    started = time.perf_counter()
    with busy("compiling kernels"):
        compile_all()
    typer.echo(f"all kernels ready in {time.perf_counter() - started:.2f} s")
