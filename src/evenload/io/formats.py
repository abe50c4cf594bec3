"""Every file format of loads and placements, in one list, and which of them a path is meant for.

A format is a module of this package; it is imported when a file is of that format, or may be. To
add one, write the module and add its line to `FORMATS`. A module may have

- ``read_load(path, num_experts or None) -> Trace``: windows are read when they are asked for;
- ``read_topk(path) -> integer ndarray [tokens, L, k] or None``: the experts of each token;
- ``read_placement(path, shape) -> PlacementFile``: what the file does not have is taken from the
  `PlacementShape`; what both have must agree;
- ``write_load(binary stream, Trace)`` and ``write_placement(binary stream, PlacementFile)``: return
  what was left out, a tuple of sentences. Windows are asked for once each, in order.

They refuse by a `ValueError`; whoever calls a reader puts the file's name in front. What is read
later, a window, names its file itself, by a `FileFormatError`.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from evenload.checks import unknown_ending
from evenload.io.base import FileFormatError, checking
from evenload.io.files import check_regular, ending_of, files_of, has_mark, is_glob

_FOLDER = "/"
_BARE_TENSOR = "\x80\x02ctorch._utils\n_rebuild_"  # a pickle's first step, not of a dict's
_JSON = (".json",)
_PICKLES = (".pkl", ".pickle")
_CONVERT_PICKLE = (
    "{path}: this is a pickle, which may run any code when it is read, and is refused; if you "
    "trust it: python -c \"import json, pickle; json.dump(pickle.load(open('{name}', 'rb')), "
    "open('{stem}.json', 'w'), default=lambda array: array.tolist())\""
)
_PLACEMENT = ("read_placement", "write_placement")
_LOAD = ("read_load", "write_load")


@dataclass(frozen=True, eq=False)
class Format:
    """One file format: how it is told, and what can be done with it.

    Endings are in lower case, with their dot. Formats that are told by marks (see `has_mark`) are
    asked before any ending is compared.
    """

    name: str  # as shown to people
    module: str  # in `evenload.io`
    summary: str  # of what a file of this format holds, in one line
    can: tuple[str, ...]  # names of the functions that are this format's there, as ``read_load``
    suffixes: tuple[str, ...] = ()  # of files that are of this format if none recognises them
    told_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # marks, by ending or "/"
    written_to: tuple[str, ...] = ()  # endings that mean it where no format is named
    many: bool = False  # whether a pattern of several files' names can be read
    takes: tuple[str, ...] = ()  # of `OPTIONS`, those that ``read_load`` has as arguments

    def function(self, name: str) -> Callable[..., Any]:
        """Return one of the module's functions."""
        found: Callable[..., Any] = getattr(import_module(f"evenload.io.{self.module}"), name)
        return found

    def recognises(self, path: Path) -> bool:
        """Whether a file or folder, or the first file of a pattern, is of this format for sure."""
        first = files_of(path)[0] if is_glob(path) else path
        ending = _FOLDER if first.is_dir() else ending_of(first)
        return ending in self.told_by and has_mark(first, *self.told_by[ending])


# How a file is to be read where that is not in it: arguments of `read_load` by name, and options.
OPTIONS = {"layout": "--as", "key": "--key", "window_tokens": "--window-tokens"}
LAYOUTS = ("loads", "long", "placement")

# Those told by content first, then by name: in this order they are asked.
FORMATS = (
    Format(
        "evenload", "placement_json",
        "an evenload placement: the expert in each slot, and the cluster it is for",
        _PLACEMENT, _JSON, {".json": ('"evenload.placement"',)}, written_to=_JSON,
    ),
    Format(
        "evenload-npz", "placement_npz",
        "an evenload placement: `physical_to_logical`, and `about` with the cluster it is for",
        _PLACEMENT, (".npz",), {".npz": ("\0physical_to_logical.npy\0",)}, written_to=(".npz",),
    ),
    Format(
        "route-log", "route_log",
        "one JSON object a line with the experts of a token in a layer (`topk_ids` or `experts`): "
        ".jsonl, a file a layer, a folder",
        ("read_load",), (),
        {
            ".jsonl": ('"topk_ids"', '"experts"', '"topk_experts"', '"expert_ids"'),
            _FOLDER: ('*.jsonl:"topk_ids"', '*.jsonl:"experts"', '*.jsonl:"topk_experts"',
                      '*.jsonl:"expert_ids"'),
        },
        many=True, takes=("window_tokens",),
    ),
    Format(
        "sglang", "sglang",
        "SGLang's --init-expert-location: `physical_to_logical_map`, a row for each layer of the "
        "model",
        _PLACEMENT, (".pt", ".json"),
        {".pt": ("physical_to_logical_map",), ".json": ('"physical_to_logical_map"',)},
        written_to=(".pt",),
    ),
    Format(
        "sglang-logical-count", "sglang",
        "SGLang's `logical_count` [layers, experts] or [steps, layers, experts], dense layers zero",
        ("read_load",), _JSON, {".json": ('"logical_count"',)},
    ),
    Format(
        "sglang-recorder", "sglang_recorder",
        "dumps of SGLang's expert distribution recorder, any mode: a file, or all ranks' in a "
        "folder",
        ("read_load",), (),
        {
            # As pickles write a text: X, its length, the letters.
            ".pt": ("X\x0d\0\0\0logical_count", "X\x07\0\0\0records"),
            _FOLDER: ("*expert_distribution_recorder*.pt",),
        },
        many=True,
    ),
    Format(
        "tensorrt-llm-statistics", "tensorrt_llm",
        "a folder of TensorRT-LLM's expert statistics: meta_info.json and rank*.safetensors",
        ("read_load",), told_by={_FOLDER: ("meta_info.json",)},
    ),
    Format(
        "vllm-ascend", "vllm_ascend",
        "vllm-ascend's expert map: the experts of each device of each MoE layer",
        _PLACEMENT, _JSON, {".json": ('"moe_layer_count"', '"layer_list"')},
    ),
    Format(
        "vllm-ascend-load", "vllm_ascend",
        "a tensor that torch saved: a load [layers, experts] or a trace [windows, layers, "
        "experts]; or a dict of a tensor a layer",
        ("read_load",), (".pth", ".pt"), {".pt": (_BARE_TENSOR,), ".pth": (_BARE_TENSOR,)},
        takes=("layout", "key"),
    ),
    Format(
        "vllm-expert-map", "vllm_expert_map",
        "vLLM's expert map, a tensor that torch saved: each expert's place on each rank, or -1 "
        "[layers, ranks, experts]",
        ("read_placement",), (".pth",), {".pt": (_BARE_TENSOR,), ".pth": (_BARE_TENSOR,)},
    ),
    Format(
        "vllm-routed-experts", "vllm_routed",
        "vLLM's routed experts [tokens, layers, k] of requests: .jsonl, .npy, .npz, a folder",
        ("read_load", "read_topk"), (".jsonl",),
        {".jsonl": ("",), ".npz": ("\0routed_experts.npy\0",)}, many=True,
    ),
    Format(
        "csv", "csv",
        "one row a layer, one column an expert; or the columns layer, expert and count, and window "
        "where there are several; separated by comma, tab or semicolon",
        _LOAD, (".csv", ".tsv", ".csv.gz", ".tsv.gz"), written_to=(".csv",), takes=("layout",),
    ),
    Format(
        "json", "json",
        "nested lists [layers][experts] or [windows][layers][experts], alone or under a key as "
        "`load`; layers by number; ADRS's `load_history`; records of layer, expert and count",
        ("read_load",), _JSON, takes=("layout", "key"),
    ),
    Format(
        "npy", "npy",
        "one array: a load [layers, experts] or a trace [windows, layers, experts]",
        _LOAD, (".npy",), written_to=(".npy",), takes=("layout",),
    ),
    Format(
        "npz", "npz",
        "`load` [windows, layers, experts] or [layers, experts], or `topk` [tokens, layers, k]; or "
        "arrays by layer, or under a key",
        (*_LOAD, "read_topk"), (".npz",), written_to=(".npz",), takes=("key",),
    ),
    Format(
        "parquet", "parquet",
        "a table with the columns window (or not), layer, expert and tokens, or window, layer and "
        "one column an expert",
        _LOAD, (".parquet",), written_to=(".parquet",), takes=("layout",),
    ),
    Format(
        "table-placement", "placement_table",
        "a placement as an array: 1 where an expert is [ranks, layers, experts], or the expert in "
        "each slot [layers, slots]; or the columns expert and gpu",
        ("read_placement",), (".npy", ".csv", ".tsv", ".csv.gz", ".tsv.gz"),
    ),
    Format(
        "tensorrt-llm", "tensorrt_llm",
        "TensorRT-LLM's load balancer YAML: `initial_global_assignments`, the experts of the slots "
        "of each MoE layer",
        _PLACEMENT, (".yaml", ".yml"), written_to=(".yaml", ".yml"),
    ),
)  # fmt: skip


def check_options(reader: Format, given: Mapping[str, Any]) -> None:
    """Raise `ValueError` for what a reader of loads is told and has no use for."""
    for name, value in given.items():
        if name not in OPTIONS:
            raise ValueError(f"{name}= is not an argument; use one of {', '.join(OPTIONS)}")
        option = f"{OPTIONS[name]} ({name}=)"
        if name == "layout" and value == "placement":
            raise ValueError(
                f"{option} is placement, and loads are wanted here; `evenload convert IN OUT --as "
                "placement` makes a placement's file of it"
            )
        if name == "layout" and value not in LAYOUTS:
            raise ValueError(f"{option} is {value!r}; use one of {', '.join(LAYOUTS)}")
        if name not in reader.takes:
            able = ", ".join(f.name for f in FORMATS if name in f.takes)
            raise ValueError(
                f"{option} is for files of format {able}, and this is {reader.name}; leave it out"
            )


def _named(name: str, ability: str) -> Format:
    able = {f.name: f for f in FORMATS if ability in f.can}
    if name in able:
        return able[name]
    verb, what = ability.split("_")
    done = "read" if verb == "read" else "written"
    raise FileFormatError(
        f"format={name!r} is not known for a {what} to be {done}; use one of {', '.join(able)}"
    )


def _by_ending(path: Path, ability: str, endings: dict[Format, tuple[str, ...]]) -> Format:
    ending = ending_of(path)
    for candidate, known in endings.items():
        if ending in known:
            return candidate
    if path.is_dir():
        raise FileFormatError(f"{path}: this is a folder; give a file")
    if ending in _PICKLES:
        raise FileFormatError(_CONVERT_PICKLE.format(path=path, name=path.name, stem=path.stem))
    if ending.endswith(".gz"):
        raise FileFormatError(f"{path}: it is packed; unpack it: gunzip --keep {path.name}")
    raise FileFormatError(
        f"{path}: a file with {unknown_ending(path)} is not known as a {ability.split('_')[1]}; "
        f"use one of {', '.join(sorted({end for known in endings.values() for end in known}))}"
    )


def find_output(path: Path, name: str | None = None, ability: str = "write_placement") -> Format:
    """Return the format `name`, or the one that a placement or a load is written in to `path`.

    If there is no such format, or none for the ending, a `FileFormatError` lists what there is.
    """
    if name is not None:
        return _named(name, ability)
    return _by_ending(path, ability, {f: f.written_to for f in FORMATS if ability in f.can})


def find_input(path: Path, ability: str, name: str | None = None) -> Format:
    """Return the format `name`, or that of a file, a folder or the first file of a pattern.

    A `FileFormatError` is raised for a folder that no format takes, for an empty file and an
    unknown ending; and if no format has that name, or reads several files.
    """
    able = [f for f in FORMATS if ability in f.can]
    if is_glob(path):
        first = files_of(path)[0]
        found = find_input(first, ability) if name is None else _named(name, ability)
        if not found.many:
            many = ", ".join(f.name for f in able if f.many)
            raise FileFormatError(
                f"{path}: files of format {found.name} are read one at a time; give one, or name "
                f"the format of a recording of several, {many or 'which there is none of'}"
            )
        return found
    status = path.stat()
    with checking(str(path)):
        check_regular(status.st_mode)
    if stat.S_ISREG(status.st_mode) and status.st_size == 0:
        raise FileFormatError(f"{path}: the file is empty (0 bytes)")
    if name is not None:
        return _named(name, ability)
    for candidate in able:
        if candidate.recognises(path):
            return candidate
    # Those that go by the ending alone come first: the others have looked, and did not know it.
    able.sort(key=lambda f: bool(f.told_by))
    return _by_ending(path, ability, {f: f.suffixes for f in able})


def find_either(path: Path, name: str | None, prefer: str | None) -> list[tuple[str, Format]]:
    """Return what a file may be, most likely first: told by content, preferred, loads.

    What can be neither loads nor a placement is a `FileFormatError`.
    """
    found, refusals = [], []
    for ability in ("read_load", "read_placement"):
        try:
            found.append((ability, find_input(path, ability, name)))
        except FileFormatError as error:
            refusals.append(error)
    readable = [f.name for f in FORMATS if {"read_load", "read_placement"} & {*f.can}]
    if not found and name is not None and name not in readable:
        raise FileFormatError(f"format={name!r} is not known; use one of {', '.join(readable)}")
    if not found:
        raise refusals[prefer == "read_placement"]
    known = {f for _, f in found if name is None and f.recognises(path)}
    return sorted(found, key=lambda f: (f[1] not in known, f[0] != prefer))
