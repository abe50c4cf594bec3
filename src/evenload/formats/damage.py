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
