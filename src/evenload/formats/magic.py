"""What a file really is, told by its first bytes, for messages about files of the wrong kind."""

from __future__ import annotations

from pathlib import Path

_KINDS = (
    (b"\x93NUMPY", "a .npy file (rename it)"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip file (unpack it)"),
    (b"BZh", "a bzip2 file (unpack it)"),
    (b"\x28\xb5\x2f\xfd", "a zstd file (unpack it)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"PAR1", "a Parquet file"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
    (b"version https://git-lfs", "a Git LFS pointer (run `git lfs pull`)"),
)


def kind_of(path: Path) -> str:
    """Name the kind of file at `path` by its first bytes, as ``it is a PNG image``."""
    with path.open("rb") as stream:
        head = stream.read(24)
    for start, kind in _KINDS:
        if head.startswith(start):
            return f"it is {kind}"
    return f"it starts with {head[:8]!r}"
