"""Where in a file that torch.save wrote lies what of it is mapped into memory."""

from __future__ import annotations

import bisect
import zipfile
from pathlib import Path


class MappedFile:
    """An archive that is mapped now, as far as the system tells (Linux does).

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._areas = _areas(path)
        with zipfile.ZipFile(path) as archive:
            members = sorted(archive.infolist(), key=lambda m: m.header_offset)
        self._starts = [member.header_offset for member in members]
        self._sizes = [member.file_size for member in members]

    def offset_of(self, address: int) -> int | None:
        """Return how many bytes from the file's start an address is; None where that is unknown."""
        for first, last, offset in self._areas:
            if first <= address < last:
                return address - first + offset
        return None

    def is_member(self, address: int, num_bytes: int) -> bool:
        """Whether what is mapped there is in one member of the archive; yes where that is unknown.

        A pickle may say that a storage is longer than its member, and so have what lies behind it.
        """
        offset = self.offset_of(address)
        if offset is None:
            return True
        index = bisect.bisect_right(self._starts, offset) - 1
        if index < 0 or num_bytes > self._sizes[index]:
            return False
        end = self._starts[index + 1] if index + 1 < len(self._starts) else offset + num_bytes
        return offset + num_bytes <= end


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
