"""Loads under keys: which of the keys holds them, and loads keyed by layer and by expert.

A tree is what a JSON file, an archive of arrays or torch makes: dicts, lists, and arrays or what
stands for them. Known are

- one array under a name of `evenload.io.columns.MEANINGS`, as ``load``, ``expert_counts``
- layers by number, alone or under ``layers``: ``{"0": [10, 20]}``, ``{"layer_3": {"cnt": [...]}}``,
  ``{"0": {"0": 10, "1": 20}}``
- ``load_history``, a list of objects with ``logical_expert_load`` each: a window each. That is the
  workload of OpenEvolve's and ADRS's example ``eplb`` (``expert-load.json``)
- a list of records with a layer, an expert and a count, as the rows of a long table

What is under none of them has to be named: `find` takes a key, parts of which are joined by dots.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.io.base import MOST_EXPERTS, check_array
from evenload.io.columns import columns_of, meaning_of, phase_code
from evenload.io.table import MemoryTable, trace_of_table
from evenload.layers import ModelLayers
from evenload.trace import Trace

_NUMBER = re.compile(r"(?:(?:\w+\.)*(?:moe)?_?layers?[._-]?)?(\d{1,6})", re.ASCII | re.IGNORECASE)
_GROUPS = ("layers", "load_history")
_MOST_NAMED, _MOST_SOUGHT = 8, 1000


class Found(NamedTuple):
    """Loads in a tree: an array or what stands for one, or a trace of records."""

    value: Any
    name: str
    layers: ModelLayers | None = None
    notes: tuple[str, ...] = ()


def find(
    tree: Any,
    path: Path,
    key: str | None,
    num_experts: int | None,
    read: Callable[[Any], NDArray[Any]] = np.asarray,
) -> Found | Trace:
    """Return the loads in a tree, under a key if one is given; else a `ValueError` names the keys.

    `read` makes an array of what stands for one.
    """
    if key is not None:
        tree, name = _under(tree, key), key
    else:
        tree, name = _descend(tree)
    if isinstance(tree, dict):
        if not _by_number(tree):
            named = _named(tree)
            if key is None or named is None:
                raise ValueError(_which(tree, "" if key is None else f"{key}."))
            tree, name = tree[named], f"{name}.{named}"
        else:
            return _layers(tree, path, name, num_experts, read)
    if isinstance(tree, list) and tree and isinstance(tree[0], dict):
        return _records(tree, path, name, num_experts)
    return Found(tree, name)


def _under(tree: Any, key: str) -> Any:
    """Return what is under a key; a key may itself have dots."""
    if isinstance(tree, dict):
        if key in tree:
            return tree[key]
        head, dot, rest = key.partition(".")
        while dot:
            if head in tree:
                return _under(tree[head], rest)
            more, dot, rest = rest.partition(".")
            head = f"{head}.{more}"
        raise ValueError(f"no key {key!r} here; {_which(tree, '')}")
    raise ValueError(f"no key {key!r}: there is {shown(tree)}, which has none")


def _named(tree: dict[Any, Any]) -> str | None:
    """Return the one key that means loads, if there is one."""
    for sure in ("load", "logical_count", *_GROUPS):
        value = tree.get(sure)
        groups = isinstance(value, dict) or (isinstance(value, list) and value)
        if groups or (sure not in _GROUPS and sure in tree):
            return sure
    several = [k for k, v in tree.items() if isinstance(v, dict | list) or hasattr(v, "shape")]
    found = [key for key in several if meaning_of(key) == "tokens"]
    return str(found[0]) if len(found) == 1 else None


def _descend(tree: Any) -> tuple[Any, str]:
    name = "load"
    for _ in range(2):
        key = _named(tree) if isinstance(tree, dict) else None
        if key is None:
            break
        name, tree = key, tree[key]
    return tree, name


def shown(value: Any) -> str:
    """Name a value by its kind and shape."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        return str(list(shape))
    if isinstance(value, dict | list):
        one = "keys" if isinstance(value, dict) else "items"
        return f"{len(value)} {one}"
    return type(value).__name__


def _leaves(tree: dict[Any, Any], before: str = "", depth: int = 3) -> Iterator[tuple[str, Any]]:
    """Yield what is in a tree of dicts, with its key."""
    for key, value in tree.items():
        if isinstance(value, dict) and value and depth and not _by_number(value):
            yield from _leaves(value, f"{before}{key}.", depth - 1)
        else:
            yield f"{before}{key}", value


def _which(tree: dict[Any, Any], before: str) -> str:
    """Say that the loads' key has to be named, with what there is."""
    there = list(islice(_leaves(tree), _MOST_SOUGHT))
    if not there:
        return "no key is the loads: there are none"
    listed = ", ".join(f"{key[:40]} ({shown(value)})" for key, value in there[:_MOST_NAMED])
    listed += ", ..." if len(there) > _MOST_NAMED else ""
    first = next((key for key, value in there if len(getattr(value, "shape", ())) > 1), None)
    if first is None:
        return (
            f"no key is known as loads; found: {listed}; use load, or layers by number, or name "
            "one by --key (key=)"
        )
    if first.rpartition(".")[2].startswith("physical_to_logical"):
        return f"this is a placement, and loads are wanted; found: {listed}; use a file of loads"
    use = f"--key {before}{first} (key=)"
    if sum(len(getattr(value, "shape", ())) == 3 for _, value in there) > 1:
        use += ", or --format vllm-routed-experts where each is a request of vLLM (format=)"
    return f"no key is known as loads; found: {listed}; name the one, as {use}"


def _by_number(tree: dict[Any, Any]) -> dict[int, Any] | None:
    """Return what is under the numbers of layers, rising; None if some key is none."""
    found = dict[int, Any]()
    for key, value in tree.items():
        match = _NUMBER.fullmatch(str(key))
        if match is None:
            return None
        number = int(match[1])
        if number in found:
            raise ValueError(
                f"layer {number} is there twice, the second time as {key!r}; leave one out"
            )
        found[number] = value
    return dict(sorted(found.items())) or None


def _layers(
    tree: dict[Any, Any],
    path: Path,
    name: str,
    num_experts: int | None,
    read: Callable[[Any], NDArray[Any]],
) -> Found:
    """Return the loads of layers by number: each an array, or a dict by expert."""
    layers, rows, assumed = _by_number(tree) or {}, list[NDArray[Any]](), False
    for number, given in layers.items():
        where, value = f"layer {number}", given
        if isinstance(value, dict) and (key := _named(value)) is not None:
            where, value = f"{where}.{key}", value[key]
        if isinstance(value, dict):
            value, assumed = _by_expert(value, where), True
        array = read(value) if hasattr(value, "shape") else np.asarray(value, object)
        if array.dtype.kind not in "iuf" or array.ndim not in (1, 2) or array.size == 0:
            raise ValueError(
                f"{where} is {shown(value)}; use the tokens of its experts, [experts] or "
                "[windows, experts]"
            )
        rows.append(array)
    E = max(row.shape[-1] for row in rows)
    if assumed:
        if num_experts is not None and num_experts < E:
            raise ValueError(
                f"there is an expert {E - 1}, and num_experts={num_experts} was given; use {E} or "
                "more"
            )
        E = num_experts or E
    for number, row in zip(layers, rows, strict=True):
        if row.shape[:-1] != rows[0].shape[:-1] or (row.shape[-1] != E and not assumed):
            raise ValueError(
                f"layer {number} has shape {list(row.shape)}, and layer {next(iter(layers))} "
                f"{list(rows[0].shape)}; make all of one shape"
            )
    check_array((len(rows), *rows[0].shape[:-1], E))
    if assumed:
        rows = [np.pad(r, [(0, 0)] * (r.ndim - 1) + [(0, E - r.shape[-1])]) for r in rows]
    notes: tuple[str, ...] = ()
    if assumed and num_experts is None:
        notes = (
            f"{path}: taken to have as many experts as the largest expert number + 1 = {E} (say "
            "--experts, or num_experts=, where the model has more)",
        )
    return Found(np.stack(rows, axis=-2), name, ModelLayers(list(layers)), notes)


def _by_expert(tree: dict[Any, Any], where: str) -> NDArray[Any]:
    """Return the tokens of experts that are keys."""
    found = dict[int, Any]()
    for key, value in tree.items():
        match = re.fullmatch(r"(?:expert[._-]?)?(\d{1,5})", str(key), re.ASCII)
        if match is None or type(value) not in (int, float):
            raise ValueError(
                f"{where} has {str(key)[:40]!r}: {shown(value)}; use the number of an expert and "
                "its tokens"
            )
        if int(match[1]) in found or int(match[1]) >= MOST_EXPERTS:
            raise ValueError(
                f"{where} has expert {match[1]} twice, or past {MOST_EXPERTS - 1}; use each once"
            )
        found[int(match[1])] = value
    row = np.zeros(max(found) + 1, np.array(list(found.values())).dtype)
    row[list(found)] = list(found.values())
    return row


def _records(items: list[Any], path: Path, name: str, num_experts: int | None) -> Found | Trace:
    """Return the loads of a list of objects: windows, or rows of a long table."""
    names = list(items[0])
    key = _named(items[0])
    every = all(isinstance(item, dict) and key in item for item in items)
    if key is not None and every and not isinstance(items[0][key], int | float):
        return _windows(items, name, key)
    for i, item in enumerate(items):
        if not isinstance(item, dict) or item.keys() != items[0].keys():
            there = shown(item) if not isinstance(item, dict) else ", ".join(map(str, item))
            raise ValueError(
                f"{name}[{i}] has {there[:80] or 'no key'}, and {name}[0] {', '.join(names)[:80]}; "
                "give all the same keys"
            )
    columns = columns_of(names)
    if columns is None or columns.layer < 0:
        raise ValueError(
            f"{name} is a list of objects with {', '.join(names)[:120]}; use layer, expert and "
            "count, or one with the loads [layers][experts] of a window in each"
        )
    if columns.phase is not None and not isinstance(items[0][names[columns.phase]], str):
        columns = columns.without_phase(names)
    values: list[NDArray[Any]] = [np.zeros(0)] * len(names)
    for place in columns.used:
        column = [item[names[place]] for item in items]
        if place == columns.phase:
            column = [phase_code(names[place], value) for value in column]
        bad = next((i for i, v in enumerate(column) if type(v) not in (int, float)), None)
        if bad is not None:
            raise ValueError(f"{name}[{bad}].{names[place]} is {column[bad]!r:.40}; use a number")
        values[place] = np.array(column)
        if values[place].dtype.kind not in "iuf":
            raise ValueError(f"{name}: {names[place]} has a number that is past an int64")
    return trace_of_table(MemoryTable(path, names, columns, values), num_experts)


def _windows(items: list[Any], name: str, key: str) -> Found:
    """Return windows, or layers where each object names its layer, under a key of each object."""
    rows = [np.asarray(item[key]) for item in items]
    for i, row in enumerate(rows):
        if row.dtype.kind not in "iuf" or row.shape != rows[0].shape:
            raise ValueError(
                f"{name}[{i}].{key} has shape {list(row.shape)}, and {name}[0].{key} "
                f"{list(rows[0].shape)}; make all of one shape, of numbers"
            )
    numbered = next((k for k in items[0] if meaning_of(k) == "layer"), None)
    if numbered is not None and rows[0].ndim == 1:
        tree = {item[numbered]: row for item, row in zip(items, rows, strict=True)}
        if len(tree) < len(items) or _by_number(tree) is None:
            raise ValueError(f"{name}: {numbered} has a layer twice, or no number; use each once")
        rows, ids = list((_by_number(tree) or {}).values()), sorted(_by_number(tree) or {})
        return Found(np.stack(rows), f"{name}.{key}", ModelLayers(ids))
    if rows[0].ndim != 2:
        raise ValueError(f"{name}[0].{key} has shape {list(rows[0].shape)}; use [layers][experts]")
    check_array((len(rows), *rows[0].shape))
    out = np.empty((len(rows), *rows[0].shape), np.result_type(*{row.dtype for row in rows}))
    for i, row in enumerate(rows):
        out[i] = row
    return Found(out, f"{name}.{key}")
