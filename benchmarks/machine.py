"""What a result was measured on, without any name or path of the machine."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("evenload", "numpy", "numba", "torch")


def describe() -> dict[str, str | int]:
    """Return CPU model, usable cores, system and the versions that matter."""
    result: dict[str, str | int] = {
        "cpu": _cpu_model(),
        "cores": _cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    return result | {name: _version(name) for name in PACKAGES}


def sentence(machine: dict[str, str | int]) -> str:
    """Return the description as one line."""
    versions = ", ".join(f"{name} {machine[name]}" for name in ("python", *PACKAGES))
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}; {versions}"


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown CPU"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
