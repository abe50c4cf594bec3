"""Results to files: JSON for machines, one page of tables for people, figures, the README."""

import json
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import (
    cold_start,
    drift,
    drift_plot,
    efforts,
    efforts_plot,
    gap,
    gap_plot,
    memory,
    quality_speed,
    readme,
    replay_speed,
    scaling,
    scaling_plot,
)
from benchmarks.machine import sentence

Results = dict[str, dict[str, Any]]

SECTIONS = {
    "quality_speed": quality_speed,
    "efforts": efforts,
    "gap": gap,
    "drift": drift,
    "scaling": scaling,
    "cold_start": cold_start,
    "memory": memory,
    "replay_speed": replay_speed,
}

Draw = Callable[[dict[str, Any], Path], None]

FIGURES: dict[str, Draw] = {
    "efforts": efforts_plot.draw,
    "gap": gap_plot.draw,
    "drift": drift_plot.draw,
    "scaling": scaling_plot.draw,
}


def load(folder: Path) -> Results:
    """Return the results of earlier runs, so that a run of one benchmark keeps the others'."""
    path = folder / "benchmarks" / "results.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def write(folder: Path, results: Results) -> list[Path]:
    """Write all that follows from `results` below `folder`; each file whole or not at all."""
    pages = folder / "benchmarks"
    page = _page(results)  # before anything is written, so that an error leaves all as it was
    paths = [pages / "results.json", pages / "README.md"]
    _write_text(paths[0], json.dumps(results, indent=1) + "\n")
    _write_text(paths[1], page)
    for name, draw in FIGURES.items():
        if name in results:
            paths.append(folder / "figures" / f"{name}.png")
            _replace(paths[-1], partial(draw, results[name]["result"]))
    return paths


def update_readme(path: Path, results: Results) -> None:
    """Put the main table between the benchmark markers of the file at `path`.

    Raises
    ------
    ValueError
        If the markers are not there, once each and in order, or the main table was not measured.
    """
    if "quality_speed" not in results:
        raise ValueError("there is no main table yet; run the benchmark quality_speed first")
    section = results["quality_speed"]
    _write_text(path, readme.insert(path.read_text(), readme.render(section)))


def _page(results: Results) -> str:
    parts = [
        "# Benchmarks",
        "Written by `python -m benchmarks.run`; the numbers are in [results.json](results.json). "
        "Times compare within one run only.",
    ]
    for name, module in SECTIONS.items():
        if name in results:
            section = results[name]
            parts += [f"## {module.TITLE}", module.render(section["result"]), _origin(section)]
    return "\n\n".join(parts) + "\n"


def _origin(section: dict[str, Any]) -> str:
    return f"`{section['command']}` on {section['date']}: {sentence(section['machine'])}."


def _write_text(path: Path, text: str) -> None:
    _replace(path, lambda temporary: temporary.write_text(text))


def _replace(path: Path, write_to: Callable[[Path], object]) -> None:
    """Write beside `path`, then rename: a reader or an interruption never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write_to(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
