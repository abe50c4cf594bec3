"""Where in a file lies what of it is mapped into memory."""

from __future__ import annotations

from pathlib import Path


class MappedFile:
    """A file that is mapped now, as far as the system tells (Linux does).

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._areas = _areas(path)

    def offset_of(self, address: int) -> int | None:
        """Return how many bytes from the file's start an address is; None where that is unknown."""
        for first, last, offset in self._areas:
            if first <= address < last:
                return address - first + offset
        return None


def _areas(path: Path) -> list[tuple[int, int, int]]:
    """Return (first address, last address, offset in the file) of each area of the file."""
    inode = path.stat().st_ino
    try:
        lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    except OSError:
        return []
    areas = []
    for line in lines:
        area, _, offset, _, number = line.split(maxsplit=5)[:5]
        if int(number) == inode:
            first, last = (int(part, 16) for part in area.split("-"))
            areas.append((first, last, int(offset, 16)))
    return areas
