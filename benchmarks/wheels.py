"""Fetch single files of published wheels into a cache; nothing of them is ever committed."""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).parent / ".cache"


class PeerMissingError(Exception):
    """A published planner cannot be run here; the message is one sentence that says why."""


@dataclass(frozen=True)
class Release:
    """A release on PyPI and the files of it that a benchmark runs.

    Attributes
    ----------
    package, version : str
        As on PyPI. Pinned: a benchmark compares with a named release, not with the newest.
    folder : str
        Folder inside the wheel.
    files : tuple of str
        Names inside that folder.
    """

    package: str
    version: str
    folder: str
    files: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Folder of the cache that holds the extracted files."""
        return CACHE / f"{self.package}-{self.version}"


def ensure(release: Release) -> Path:
    """Return the folder with the files of `release`; download the wheel where they are not there.

    Raises
    ------
    PeerMissingError
        If the wheel cannot be downloaded or does not hold the files.
    """
    if all((release.path / name).is_file() for name in release.files):
        return release.path
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        wheel = _download(release, Path(scratch))
        extracted = Path(scratch) / "files"
        extracted.mkdir()
        _extract(release, wheel, extracted)
        shutil.rmtree(release.path, ignore_errors=True)
        extracted.rename(release.path)
    return release.path


def _download(release: Release, folder: Path) -> Path:
    # The platform is named so that any system gets the same wheel: its Python files run anywhere.
    platform = ["--platform=manylinux_2_34_x86_64", "--platform=manylinux_2_28_x86_64"]
    python = ["--python-version=3.11", "--implementation=cp", "--abi=cp311", "--abi=abi3"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", *platform, *python, f"--dest={folder}"]
    command += ["--disable-pip-version-check", f"{release.package}=={release.version}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or not wheels:
        reason = (result.stderr.strip().splitlines() or ["no output"])[-1]
        raise PeerMissingError(
            f"{release.package} {release.version} could not be downloaded with pip ({reason})"
        )
    return wheels[0]


def _extract(release: Release, wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in release.files:
            try:
                content = archive.read(f"{release.folder}/{name}")
            except KeyError as error:
                raise PeerMissingError(
                    f"{release.package} {release.version} has no {release.folder}/{name}"
                ) from error
            (folder / name).write_bytes(content)
