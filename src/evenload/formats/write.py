"""Files appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Make an `OSError` name the file that was asked for instead of the temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _replace(temporary: Path, target: Path) -> None:
    if target.exists():
        shutil.copymode(target, temporary)
    temporary.replace(target)


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary stream whose content becomes the file at `path` once all went well.

    The bytes go to a temporary file in the same folder, which then takes the place of `path` in one
    step. On any error, and on an interrupt, the temporary file goes and `path` stays as it was.
    Links are followed; a device or pipe, which nothing can take the place of, is written directly.

    Raises
    ------
    OSError
        If the folder does not exist or cannot be written; it names `path`.
    """
    asked = Path(path)
    target = asked.resolve()
    if target.exists() and not target.is_file():
        with _named(asked), target.open("wb") as stream:
            yield stream
        return
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    with _named(asked):
        try:
            with temporary.open("xb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            _replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
