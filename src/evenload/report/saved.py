"""Replays kept in files, to make pages and pictures of them later; which of them go together."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from evenload.cluster import Cluster
from evenload.io import FileFormatError, replace_file
from evenload.io.files import check_bytes, check_regular
from evenload.replay import Replay
from evenload.report.text import check_ending
from evenload.trace import Trace

_KIND = "evenload replays, version 1"


def check_saved_path(path: str | os.PathLike[str]) -> None:
    """Raise `ValueError` unless a name for a file of replays ends in .npz."""
    check_ending(path, [".npz"], "replays are not kept in files with {}")


def save_replays(path: str | os.PathLike[str], replays: Sequence[Replay]) -> None:
    """Keep replays in a .npz file, which appears whole or not at all.

    The file holds no loads: a page of it needs the trace as well.

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
    # Arrays are members under the replay's number; what else there is is JSON in one more.
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


def load_replays(path: str | os.PathLike[str]) -> list[Replay]:
    """Read the replays that `save_replays` kept.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileFormatError
        If the file holds no replays, or is damaged.
    """
    known = {field.name for field in fields(Replay)}
    if Path(path).is_dir():
        raise FileFormatError(f"{path}: this is a folder; give a file")
    try:
        check_regular(Path(path).stat().st_mode)
        with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            check_bytes("what it unpacks to", sum(m.file_size for m in file.zip.infolist()))
            about = json.loads(str(file["about"]))
            if about["kind"] != _KIND:
                raise ValueError(about["kind"])
            members, replays = [name.partition("/") for name in file.files if "/" in name], []
            for number, values in enumerate(about["replays"]):
                values |= {n: file[f"{i}/{n}"] for i, _, n in members if i == str(number)}
                if set(values) != known:
                    raise ValueError(f"fields {sorted(set(values) ^ known)}")
                values |= {"cluster": Cluster(**values["cluster"]), "notes": tuple(values["notes"])}
                replays.append(Replay(**values))
            return replays
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, MemoryError,
            zipfile.BadZipFile) as error:  # fmt: skip
        # NumPy takes what is no archive for a pickle, and says how to load that.
        why = f" ({error})" if zipfile.is_zipfile(path) else ""
        raise FileFormatError(
            f"{path}: no replays are in it{why}; use a file that `evenload replay --save` wrote "
            "with "
            "this version"
        ) from None


# ---- which replays go together ---------------------------------------------------------------


def _span(windows: Any) -> str:
    return f"{len(windows)} windows ({windows[0]} to {windows[-1]})"


def check_together(replays: Sequence[Replay], trace: Trace) -> None:
    """Raise `ValueError` where one page cannot show all replays.

    That is: there is none, two have one name and dispatch, they differ in cluster, merge or the
    windows that they served, one has not kept its placements, or the trace is not the one they
    served.
    """
    if not replays:
        raise ValueError("replays is empty; use at least one replay")
    first = replays[0]
    names = [(replay.policy, replay.dispatch) for replay in replays]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"replays: {name[0]!r} is there {names.count(name)} times under dispatch "
                f"{name[1]!r}; use each once"
            )
    for other in replays:
        for what, ours, theirs in (
            ("cluster", first.cluster, other.cluster),
            ("merge", first.merge, other.merge),
            ("layers", first.balancedness.shape[1], other.balancedness.shape[1]),
        ):
            if ours != theirs:
                raise ValueError(
                    f"replays: {first.policy!r} has {what}={ours}, and {other.policy!r} "
                    f"{what}={theirs}; use replays of one trace with the same one"
                )
        if not np.array_equal(first.windows, other.windows):
            raise ValueError(
                f"replays: {first.policy!r} served {_span(first.windows)}, and {other.policy!r} "
                f"{_span(other.windows)}; use replays of the same windows"
            )
        kept, made = len(other.placements), other.num_rebalances + 1
        if kept != made:
            raise ValueError(
                f"replays: {other.policy!r} has kept {kept} of its {made} placements; replay with "
                "keep_placements=True"
            )
    # Every expert has a slot, so the largest number tells how many there are.
    layers, experts = first.placements.shape[1], int(first.placements.max()) + 1
    if (trace.num_layers, trace.num_experts) != (layers, experts):
        raise ValueError(
            f"trace has {trace.num_layers} layers x {trace.num_experts} experts, and the replays "
            f"{layers} x {experts}; use the trace that they served"
        )
    needed = (int(first.windows[-1]) + 1) * first.merge
    if trace.num_windows < needed:
        raise ValueError(
            f"trace has {trace.num_windows} windows, and the replays served {needed}; use the "
            "trace that they served"
        )
