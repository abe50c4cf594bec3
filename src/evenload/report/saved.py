"""Replays kept in a file, so that pages and pictures can be made of them later."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evenload.cluster import Cluster
from evenload.io import FileFormatError, replace_file

if TYPE_CHECKING:
    from evenload.replay import Replay

SUFFIX = ".npz"
_KIND = "evenload replays, version 1"


def check_saved_path(path: str | os.PathLike[str]) -> None:
    """Raise `ValueError` unless replays can be kept in a file of that name: one ending in .npz."""
    suffix = Path(path).suffix
    if suffix.lower() != SUFFIX:
        ending = f"the ending {suffix!r}" if suffix else "no ending"
        raise ValueError(f"{path}: replays are not kept in files with {ending}; use {SUFFIX}")


def save_replays(path: str | os.PathLike[str], replays: Sequence[Replay]) -> None:
    """Keep replays in a .npz file, which appears whole or not at all.

    Their arrays become its members, under the replay's number; what else they have is JSON in one
    more. The file holds no loads: a page of it needs the trace as well.

    Raises
    ------
    ValueError
        If there is no replay, or the ending is another.
    OSError
        If the file cannot be written.
    """
    check_saved_path(path)
    if not replays:
        raise ValueError("replays is empty; use at least one replay")
    arrays: dict[str, Any] = {}
    rest = []
    for number, replay in enumerate(replays):
        values = {field.name: getattr(replay, field.name) for field in fields(replay)}
        names = [name for name, value in values.items() if isinstance(value, np.ndarray)]
        arrays |= {f"{number}/{name}": values.pop(name) for name in names}
        rest.append(values | {"cluster": replay.cluster.arguments})
    arrays["about"] = np.array(json.dumps({"kind": _KIND, "replays": rest}))
    with replace_file(path) as stream:
        np.savez_compressed(stream, **arrays)


def _read(values: dict[str, Any], arrays: dict[str, Any]) -> Replay:
    from evenload.replay import Replay

    known = {field.name for field in fields(Replay)}
    given = values | arrays
    if set(given) != known:
        raise ValueError(f"fields {sorted(set(given) ^ known)}")
    cluster, notes = Cluster(**values["cluster"]), tuple(values["notes"])
    return Replay(**given | {"cluster": cluster, "notes": notes})


def load_replays(path: str | os.PathLike[str]) -> list[Replay]:
    """Read the replays that `save_replays` kept.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileFormatError
        If the file holds no replays, or is damaged.
    """
    place = Path(path)
    if place.is_dir():
        raise FileFormatError(f"{place}: this is a folder; give a file")
    try:
        with place.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            if about["kind"] != _KIND:
                raise ValueError(about["kind"])
            members = [name.partition("/") for name in file.files if "/" in name]
            return [
                _read(values, {n: file[f"{i}/{n}"] for i, _, n in members if i == str(number)})
                for number, values in enumerate(about["replays"])
            ]
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise FileFormatError(
            f"{place}: no replays are in it ({error}); use a file that `evenload replay --save` "
            "wrote with this version"
        ) from None
