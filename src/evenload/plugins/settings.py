"""What the user can set on the plug-ins: environment variables, and a file.

Imports neither NumPy nor Numba: every process of an engine looks here, also where nobody asks for
evenload.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeAlias

from evenload.checks import nearest, printable

PREFIX = "EVENLOAD_"
FLAGS = {"1": True, "true": True, "yes": True, "on": True,
         "0": False, "false": False, "no": False, "off": False, "": False}  # fmt: skip
MOST_BYTES = 1 << 20  # of an options file


Kind: TypeAlias = tuple[Callable[[Any], Any], str]
"""What makes a value of a text or of what a file says, or fails; and what it takes, in words."""


def _whole(value: Any) -> int:
    number = int(value)
    if isinstance(value, (bool, float)) or number < 0:
        raise ValueError
    return number


def _number(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not 0.0 <= number < float("inf"):
        raise ValueError
    return number


def _share(value: Any) -> float:
    number = _number(value)
    if number > 1.0:
        raise ValueError
    return number


def _canary(value: Any) -> str:
    """Check that a text lists layers, or says how many of the first ones."""
    text = _text(value).replace(" ", "")
    for number in text.removeprefix("first:").split(",") if text else ():
        _whole(number)
    if text.startswith("first:") and "," in text:
        raise ValueError
    return text


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _one_of(*choices: str) -> Kind:
    wanted = f"one of those known; use one of: {', '.join(choices)}"
    return {choice: choice for choice in choices}.__getitem__, wanted


FLAG = (lambda value: FLAGS[str(value).strip().lower()], "yes or no; use 1 or 0")
TEXT = (_text, "a text; put it in quotes")
WHOLE = (_whole, "an integer of at least 0; use 0 or more")
NUMBER = (_number, "a number of at least 0; use 0 or more")
SHARE = (_share, "a number from 0 to 1; use 0.125 or another")
CANARY = (_canary, "a list of layers; use e.g. 0,7,12, or first:4")
VERIFY = (lambda value: "all" if value == "all" else FLAG[0](value),
          "yes, no or all; use 1, 0 or all")  # fmt: skip
EFFORTS = ("fast", "standard", "thorough")
EFFORT = (lambda value: value if value in EFFORTS else _whole(value),
          f"an effort; use one of: {', '.join(EFFORTS)}, or a number of steps")  # fmt: skip


@dataclass(frozen=True)
class Knob:
    """One setting: a key of the options file, and ``EVENLOAD_`` with the key in capitals.

    A default of None leaves it to the solver; `meaning` is for the table of the docs.
    """

    name: str
    kind: Kind
    default: Any
    meaning: str
    in_file: bool

    @property
    def variable(self) -> str:
        """Name of the environment variable."""
        return PREFIX + self.name.upper()

    def parse(self, value: Any, said_as: str) -> Any:
        """Return the value, or raise `ValueError`; `said_as` is the user's word for the knob."""
        read, wanted = self.kind
        try:
            return read(value)
        except (LookupError, TypeError, ValueError):
            raise ValueError(f"{said_as}={value!r} is not {wanted}") from None


def _knob(kind: Kind, default: Any, meaning: str, in_file: bool = True) -> Any:
    return field(default=default, metadata={"knob": (kind, default, meaning, in_file)})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting's value, and what each means."""

    # fmt: off
    options: str = _knob(TEXT, "", "a file (.toml or .json) with the settings below, under their "
        "names in small letters; an environment variable beats it", in_file=False)
    vllm: bool = _knob(FLAG, False, "install evenload as vLLM's policy `default`")
    vllm_ascend: bool = _knob(FLAG, False,
        "install evenload for every `eplb_policy_type` of vllm-ascend's own runner")
    sglang_elastic: bool = _knob(FLAG, False,
        "plan SGLang's `elasticity_aware` and `elasticity_aware_hierarchical` by evenload")
    sglang_dispatch: str = _knob(_one_of("lp", "waterfill"), "lp", "what splits a batch under "
        "SGLang's `--ep-dispatch-algorithm lp`: its own linear program, or water-filling")
    on_failure: str = _knob(_one_of("fallback", "raise"), "fallback",
        "where the self-test at registration fails: `fallback` keeps the engine's own policy, and "
        "still compares plans with the other ranks; `raise` does not let the engine start")
    placement: str = _knob(TEXT, "", "a placement that was planned ahead: every rebalance of vLLM "
        "returns it, whatever the load")
    solver: str = _knob(TEXT, "auto", "solver by name; `auto` moves few experts")
    effort: str | int | None = _knob(EFFORT, None,
        "how long a plan is searched for, where the solver takes it")
    move_cost: float | None = _knob(NUMBER, None, "balancedness that a move has to gain in its "
        "layer; without it 0.1 over a layer's slots")
    max_moves: int | None = _knob(WHOLE, None,
        "experts of one layer that may move in a rebalance")
    max_total_moves: int | None = _knob(WHOLE, None,
        "experts of all layers that may move in a rebalance")
    start_share: float = _knob(SHARE, 0.125, "part of all slots that may get another expert in a "
        "rebalance while a layer runs what the engine started with, though one layer always may; "
        "`max_total_moves` beats it")
    history: int = _knob(WHOLE, 16, "windows that a plan has to hold under: in vLLM the last ones "
        "that all ranks have seen, in SGLang parts of its buffer; more hardly help, and cost time")
    expert_time: str = _knob(TEXT, "", "plan by the seconds that an expert takes a GPU for its "
        "tokens, not by tokens: a `.csv` of `evenload measure-expert-time`, or a preset as "
        "`h100-ib:qwen3-30b-a3b`; takes `tokens_per_batch`")
    tokens_per_batch: int = _knob(WHOLE, 0, "tokens that all GPUs put through a layer at once, for "
        "`expert_time`")
    top_k: int = _knob(WHOLE, 1, "experts that a token of `tokens_per_batch` goes to")
    shadow: bool = _knob(FLAG, False, "plan, compare and log, but return the map of the engine's "
        "own policy; in vllm-ascend, the map that runs")
    canary: str = _knob(CANARY, "", "layers that evenload plans, `0,7,12` or `first:4`; the "
        "engine's own policy plans the others")
    kill_switch: str = _knob(TEXT, "", "a path; while there is a file on any rank, the map that "
        "runs stays")
    topology: str = _knob(_one_of("auto", "strict", "prefer", "ignore"), "auto", "`strict` "
        "keeps the replicas of a group on one node, `prefer` one of each expert and others where "
        "they save more time than tokens cost that leave the node, `ignore` plans without groups, "
        "`auto` is strict where the groups divide over the nodes. `prefer` plans anew, and moves "
        "most experts, at each rebalance")
    agree: bool = _knob(FLAG, True, "vLLM's ranks compare the digests of their plans at each "
        "rebalance, and all keep the old map where two differ")
    agree_timeout: float = _knob(NUMBER, 300.0, "seconds after which a comparison that not every "
        "rank came to is given up by all: the engine does not start, or once it serves the old map "
        "stays")
    verify: bool | str = _knob(VERIFY, False, "compare checksums of the experts' weights before "
        "and after vLLM moves them, in 4 layers of a rebalance; `all`: in all of its layers")
    num_threads: int | None = _knob(WHOLE, None, "threads of a plan, default 2, since all "
        "ranks of a node plan at the same time; it never changes a plan", in_file=False)
    # fmt: on

    def for_solver(self, something_runs: bool) -> dict[str, Any]:
        """Return the options of the solver that were said; what moves cost, where there are any."""
        of_moves = ("move_cost", "max_moves", "max_total_moves") if something_runs else ()
        said = {name: getattr(self, name) for name in ("effort", *of_moves)}
        return {name: value for name, value in said.items() if value is not None}

    def canary_layers(self, num_layers: int) -> list[int]:
        """Return the layers that evenload plans, of those that there are."""
        first, _, count = self.canary.partition("first:")
        named = range(int(count)) if count else map(int, first.split(","))
        return [layer for layer in named if layer < num_layers]


KNOBS = tuple(Knob(setting.name, *setting.metadata["knob"]) for setting in fields(Settings))


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read the knobs; an environment variable, by default the process's, beats the options file.

    Raises
    ------
    ValueError
        For a value that is not of its knob's kind, a knob that does not exist, or an options file
        that cannot be read.
    """
    environ = os.environ if environment is None else environment
    by_variable = {knob.variable: knob for knob in KNOBS}
    for variable in environ:
        if variable.startswith(PREFIX) and variable not in by_variable:
            raise ValueError(f"{variable} is not a setting; {nearest(variable, by_variable)}")
    file = environ.get(f"{PREFIX}OPTIONS", "")
    values = _from_file(Path(file)) if file else {}
    for variable, knob in by_variable.items():
        if variable in environ:
            values[knob.name] = knob.parse(environ[variable], variable)
    return Settings(**values)


def is_asked_for(name: str) -> bool:
    """Whether the knob of an engine is on, or the user tried to say so and failed.

    A setting that cannot be read counts as asked for, so that it is told of and not passed over;
    without any setting this only looks at the environment.
    """
    variable = PREFIX + name.upper()
    if variable not in os.environ and f"{PREFIX}OPTIONS" not in os.environ:
        return False
    try:
        return bool(getattr(read_settings(), name))
    except ValueError:
        return os.environ.get(variable, "1").strip() != "0"


def _from_file(path: Path) -> dict[str, Any]:
    import json
    import tomllib

    from evenload.io.files import check_regular

    shown = printable(str(path))  # it goes to the engine's log
    readers = {".json": json.loads, ".toml": tomllib.loads}
    if path.suffix not in readers:
        raise ValueError(
            f"{PREFIX}OPTIONS={shown} ends in neither .toml nor .json; use one of them"
        )
    try:
        check_regular(path.stat().st_mode)
        with path.open("rb") as stream:
            raw = stream.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise ValueError("it has more than 1 MB")
        said = readers[path.suffix](raw.decode())
    except (OSError, ValueError, RecursionError) as error:
        why = printable(str(error))
        raise ValueError(f"{PREFIX}OPTIONS={shown} cannot be read: {why}") from None
    if not isinstance(said, dict):
        raise ValueError(f"{shown} holds a {type(said).__name__}; use names and values")
    knobs = {knob.name: knob for knob in KNOBS if knob.in_file}
    for key in said:
        if key not in knobs:
            raise ValueError(
                f"{shown} says {key!r}, which is not a setting of a file; {nearest(key, knobs)}"
            )
    return {key: knobs[key].parse(value, f"{shown}: {key}") for key, value in said.items()}
