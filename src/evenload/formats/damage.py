"""What reading damaged bytes may raise."""

from __future__ import annotations

import zipfile
import zlib

# What zipfile and zlib raise on damaged bytes; OSError is a seek to before the file's start.
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
)


def briefly(error: Exception) -> str:
    """Return the start of a library's message on one line, or the error's name if it is empty."""
    text = " ".join(str(error).split())
    return text[:120] or type(error).__name__
