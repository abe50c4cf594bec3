"""From exceptions to one sentence on stderr and an exit code."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import typer

BAD_INPUT = 2
INTERRUPTED = 130

Command = TypeVar("Command", bound=Callable[..., None])


def _sentence(error: ValueError | OSError) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror[:1].lower() + error.strerror[1:]
        if error.filename is not None:
            text = f"{error.filename}: {text}"
    return " ".join(text.split())


def reported(command: Command) -> Command:
    """Wrap a command: what the user can mend becomes one sentence, the rest stays a traceback.

    Parameters
    ----------
    command : callable
        A `ValueError` or `OSError` that leaves it ends the program with exit code 2, an interrupt
        with 130.
    """

    @functools.wraps(command)
    def wrapper(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except BrokenPipeError:
            raise
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except (ValueError, OSError) as error:
            typer.echo(f"error: {_sentence(error)}", err=True)
            raise typer.Exit(BAD_INPUT) from None

    return wrapper  # type: ignore[return-value]
