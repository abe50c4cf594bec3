"""Files as files: which ones a path stands for, what kind they are, and how one is replaced."""

from __future__ import annotations

import errno
import glob
import os
import re
import secrets
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from evenload.checks import positive_int, printable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

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

_TEXT_HEAD, _PICKLE_END = 4096, 2**16  # bytes
_DIGITS = re.compile(r"(\d+)")

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
    *((b"\x80" + bytes([protocol]), "a Python pickle") for protocol in range(2, 6)),
    (b"version https://git-lfs", "a Git LFS pointer (run `git lfs pull`)"),
)


# ---- how much is read ----------------------------------------------------------------------------

MOST_BYTES = 2**30  # held at once for one array, one line or one text; a header may claim any size
_most: ContextVar[int | None] = ContextVar("most_bytes", default=None)


def most_bytes(usual: int = MOST_BYTES) -> int:
    """Return how many bytes a reader may hold at once: what `max_bytes` says, or else the usual.

    What reads again later, perhaps in another process, keeps the number and sets it then.
    """
    return _most.get() or usual


@contextmanager
def max_bytes(number: int | None) -> Iterator[None]:
    """Let readers hold up to `number` bytes at once within the block, 1 GiB unless told.

    Where a file is read window by window a window counts, not the file. None changes nothing; a
    number below 1 is a `ValueError`.
    """
    token = _most.set(_most.get() if number is None else positive_int("max_bytes", number))
    try:
        yield
    finally:
        _most.reset(token)


def check_bytes(what: str, size: int, usual: int = MOST_BYTES) -> None:
    """Raise `ValueError` if a reader would have to hold too much; called before it does."""
    if size > (most := most_bytes(usual)):
        raise ValueError(
            f"{what} takes {size} bytes, more than the {most} that are held at once; where there "
            f"is memory for it, use --max-bytes {size} (evenload.io.max_bytes)"
        )


def check_regular(mode: int) -> None:
    """Raise `ValueError` for what may never end, or wait for ever, by a path's ``st_mode``."""
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        pipe, socket = stat.S_ISFIFO(mode), stat.S_ISSOCK(mode)
        kind = "a pipe" if pipe else "a socket" if socket else "a device"
        raise ValueError(
            f"this is {kind}, and only regular files are read; write what it gives to a file"
        )


def first_twice(names: Iterable[Any]) -> Any:
    """Return the first name that is there again; None if each is there once."""
    seen = set[Any]()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def some(names: Sequence[Any], most: int = 12) -> str:
    """Return the first of many names with commas between, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(str(name)[:40] for name in names[:most]) or "none") + more


# ---- which files, and of what kind ---------------------------------------------------------------


def kind_of(path: Path) -> str:
    """Name the kind of file at `path` by its first bytes, as ``it is a PNG image``."""
    with path.open("rb") as stream:
        head = stream.read(24)
    for start, kind in _KINDS:
        if head.startswith(start):
            return f"it is {kind}"
    return f"it starts with {head[:8]!r}"


def has_mark(path: Path, *marks: str) -> bool:
    """Whether a folder has a file of such a name, or a file shows such a mark; nothing is parsed.

    Behind a colon stands a mark that the first file of that name has to show.

    Marks are sought near the start of a .json text, where programs write its keys, and in an
    archive among its members' names, with a NUL on either side, and near the ends of its pickle.
    """
    if path.is_dir():
        return any(_has_file(path, *mark.partition(":")[::2]) for mark in marks)
    shown = _peek(path)
    return any(mark.encode("latin-1") in shown for mark in marks)


def _has_file(folder: Path, name: str, mark: str) -> bool:
    found = sorted(folder.glob(name), key=natural) if mark else [*islice(folder.glob(name), 1)]
    return bool(found) and (not mark or has_mark(found[0], mark))


def ending_of(path: Path) -> str:
    """Return a file's ending in lower case, as ``.csv``, or ``.csv.gz`` where it is packed."""
    endings = path.suffixes[-2:]
    packed = len(endings) == 2 and endings[1].lower() == ".gz"
    return "".join(endings).lower() if packed else path.suffix.lower()


def _peek(path: Path) -> bytes:
    if path.suffix.lower().startswith(".json"):
        with path.open("rb") as stream:
            return stream.read(_TEXT_HEAD)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            shown = "\0".join(["", *names, ""]).encode()
            for member in (n for n in names if n.endswith("data.pkl")):
                size = archive.getinfo(member).file_size
                with archive.open(member) as stream:
                    shown += stream.read(_PICKLE_END)
                    stream.seek(max(size - _PICKLE_END, 0))
                    return shown + b"\0" + stream.read(_PICKLE_END)
            return shown
    except DAMAGED:
        return b""


def is_glob(path: Path) -> bool:
    """Whether a path is a pattern as ``dump/*.pt``; what there is under that very name is none."""
    return glob.has_magic(str(path)) and not path.exists()


def natural(path: Path) -> list[int | str]:
    """Return what sorts names as people do: ``rank2`` before ``rank10``."""
    return [int(p) if i % 2 else p for i, p in enumerate(_DIGITS.split(path.name))]


def files_of(path: Path, *suffixes: str) -> list[Path]:
    """Return the files that a path stands for, sorted by name with numbers as numbers.

    It is a file; a folder, of which the files with these endings are taken that are directly in
    it; or a pattern, where ``**`` is any folders and nothing found a `FileNotFoundError`.
    """
    if is_glob(path):
        found = map(Path, glob.iglob(str(path), recursive=True))  # noqa: PTH207 (absolute too)
        files = sorted((p for p in found if p.is_file()), key=natural)
        if not files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return files
    if not path.is_dir():
        return [path]
    inside = (p for p in path.iterdir() if not suffixes or p.suffix.lower() in suffixes)
    return sorted((p for p in inside if p.is_file()), key=natural)


# ---- written -------------------------------------------------------------------------------------


def check_place(path: str | os.PathLike[str]) -> None:
    """Raise `ValueError` unless there is a folder for a file at `path`; said before any work."""
    place = Path(path)
    folder = (place.resolve() if place.is_symlink() else place).parent
    what = ""
    if not folder.is_dir():
        what = (
            "is not a folder; give another" if folder.exists() else "does not exist; make it first"
        )
    elif not os.access(folder, os.W_OK):
        what = "may not be written to; give another"
    if what:
        raise ValueError(printable(f"{place}: the folder {folder} {what}"))
    if place.is_dir():
        raise ValueError(printable(f"{place}: this is a folder; give a file in it"))


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Remove what killed writers of files of that name left behind; what is written to is held."""
    for path in folder.glob(f".{name}.{'[0-9a-f]' * 8}.tmp"):
        with suppress(OSError), path.open("r+b") as stream:
            _hold(stream.fileno())
            path.unlink()
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError), _held(path):
                shutil.rmtree(path)


def _hold(number: int) -> None:
    """Hold an open file until it is closed, or raise `OSError` where another process does.

    Windows lets nobody remove a file that is open, and needs no lock.
    """
    if fcntl is not None:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a folder in the block; Windows opens none."""
    number = os.open(folder, os.O_RDONLY)
    try:
        _hold(number)
        yield
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary stream whose content becomes the file at `path` once all went well.

    The bytes go to a temporary file in the same folder, which then takes the place of `path` in one
    step. On any error, and on an interrupt, the temporary file goes and `path` stays as it was.
    Links are followed; a device or pipe, which nothing can take the place of, is written directly.

    Raises
    ------
    OSError
        If the folder does not exist or cannot be written; it names `path`.
    """
    target = Path(path).resolve()
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        if target.exists() and not target.is_file():
            with target.open("wb") as stream:
                yield stream
            return
        with temporary.open("xb") as stream:
            with suppress(OSError):  # a file system without locks
                _hold(stream.fileno())
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        temporary.replace(target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(Path(path))) from error
        raise


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Make a folder that becomes the one at `path`, which is not there, once all went well.

    It is a temporary one beside it until then. On any error, and on an interrupt, it goes; what a
    killed process left there goes before.

    Raises
    ------
    OSError
        If a file in it cannot be written; it names `path` for the temporary folder.
    """
    target = Path(path).resolve()
    remove_unfinished(target.parent, glob.escape(target.name))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir()
        with ExitStack() as held:
            with suppress(OSError):  # a file system without locks
                held.enter_context(_held(temporary))
            yield temporary
        temporary.rename(target)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.errno is not None:
            named = str(error.filename or temporary).replace(str(temporary), str(Path(path)))
            raise OSError(error.errno, error.strerror, named) from error
        raise
