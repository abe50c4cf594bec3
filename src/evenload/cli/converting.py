"""Steps of converting a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evenload.cli.screen import say, say_notes
from evenload.io import (
    FORMATS,
    FileFormatError,
    PlacementFile,
    RawTrace,
    check_window,
    find_output,
    for_layers,
    write_load,
    write_placement_file,
)
from evenload.layers import ModelLayers
from evenload.report.text import counted
from evenload.trace import ArrayWindows

_WRITE = {"write_load": "read_load", "write_placement": "read_placement"}
_DIGITS = 5  # of a layer's number


def named_layers(text: str | None) -> ModelLayers | None:
    """Read the model's layers from numbers and ranges with commas between, as ``3-60``.

    Raises
    ------
    ValueError
        For anything else, numbers that do not rise, or more than any model has.
    """
    if text is None:
        return None
    ids: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        ends = [first, last] if dash else [first, first]
        if not all(end.isascii() and end.isdigit() and len(end) <= _DIGITS for end in ends):
            raise ValueError(
                f"--layers {text}: {part!r} is no layer; use numbers and ranges, e.g. 3-60 or 1,3,5"
            )
        ids += range(int(ends[0]), int(ends[1]) + 1)
    return ModelLayers(ids)


def wanted_kind(target: Path, to_format: str | None) -> str | None:
    """Tell what to read where only loads or only a placement can be written; None for both.

    Raises
    ------
    ValueError
        If neither can.
    """
    able = [ability for ability in _WRITE if _can(target, to_format, ability)]
    if not able:
        raise ValueError(_unknown(target, to_format))
    return _WRITE[able[0]] if len(able) == 1 else None


def _can(target: Path, to_format: str | None, ability: str) -> bool:
    try:
        find_output(target, to_format, ability)
    except FileFormatError:
        return False
    return True


def _unknown(target: Path, to_format: str | None) -> str:
    able = {a: [f for f in FORMATS if a in f.can] for a in _WRITE}
    if to_format is not None:
        loads, placements = (sorted(f.name for f in formats) for formats in able.values())
        what = f"--to {to_format} is no format that is written"
    else:
        loads, placements = (
            sorted({ending for f in formats for ending in f.written_to})
            for formats in able.values()
        )
        ending = f"the ending {target.suffix!r}" if target.suffix else "no ending"
        what = f"{target}: a file with {ending} is of no format that is written"
    return f"{what}; use {', '.join(loads)} for loads, {', '.join(placements)} for a placement"


def _one_window(loads: RawTrace, window: int, source: str) -> RawTrace:
    number = check_window(window, loads.windows.shape[0], source)
    return replace(loads, windows=ArrayWindows(loads.windows.read(number)[None]))


def _named(loads: RawTrace, model: ModelLayers) -> RawTrace:
    if loads.layers is not None and loads.layers.ids != model.ids:
        raise ValueError(
            f"--layers: the loads name their {len(loads.layers)} layers, {loads.layers.ids[0]} to "
            f"{loads.layers.ids[-1]}; leave --layers out"
        )
    there = loads.windows.shape[1]
    if len(model) != there:
        raise ValueError(f"--layers names {len(model)} layers, and there are {there}; name {there}")
    return replace(loads, layers=loads.layers or model)


def convert_loads(
    loads: RawTrace, model: ModelLayers | None, window: int | None, target: Path, name: str | None
) -> None:
    """Write loads, and tell on stderr where they are and what was left out."""
    loads = loads if model is None else _named(loads, model)
    loads = loads if window is None else _one_window(loads, window, "the trace")
    find_output(target, name, "write_load")
    say_notes(write_load(target, loads, format=name))
    words = map(counted, loads.windows.shape, ("window", "layer", "expert"))
    say(f"wrote loads of {', '.join(words)} to {target}")


def convert_placement(
    file: PlacementFile,
    model: ModelLayers | None,
    window: int | None,
    target: Path,
    name: str | None,
) -> None:
    """Write a placement, and tell on stderr where it is and what was left out."""
    if window is not None:
        raise ValueError("--window takes one of the windows of loads, and this is a placement")
    if model is not None:
        known = file.notes
        file = for_layers(file, model)
        say_notes(file.notes[len(known) :])
    say_notes(write_placement_file(target, file, format=name))
    say(f"wrote the placement to {target}")
