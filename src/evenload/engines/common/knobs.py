"""All that can be set on the plug-ins, in one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PREFIX = "EVENLOAD_"
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")


@dataclass(frozen=True)
class Knob:
    """One setting: an environment variable, and a key of the options file.

    Parameters
    ----------
    name : str
        Key in the options file; the environment variable is ``EVENLOAD_`` and the name in capitals.
    kind : {"flag", "text", "choice", "whole", "number", "effort"}
        What its value is: yes or no, any text, one of `choices`, an integer of at least 0, a number
        of at least 0, a level or a number of steps.
    default : object
        Value where nothing is said; None leaves it to the solver.
    meaning : str
        For the table of the docs.
    choices : tuple of str
        What may be said, for a choice and for the levels of an effort.
    in_file : bool
        Whether the options file may say it.
    """

    name: str
    kind: str
    default: Any
    meaning: str
    choices: tuple[str, ...] = ()
    in_file: bool = True

    @property
    def variable(self) -> str:
        """Name of the environment variable."""
        return PREFIX + self.name.upper()

    def parse(self, value: Any, said_as: str) -> Any:
        """Return a value of this kind from a text or what a file says.

        Parameters
        ----------
        value : object
        said_as : str
            The user's word for the knob, for the message.

        Raises
        ------
        ValueError
            If it is no value of this kind.
        """
        try:
            return _PARSERS[self.kind](value, self.choices)
        except (TypeError, ValueError):
            wanted = _WANTED[self.kind].format(", ".join(self.choices))
            raise ValueError(f"{said_as}={value!r} is not {wanted}") from None


def _flag(value: Any, _: tuple[str, ...]) -> bool:
    if isinstance(value, bool):
        return value
    said = str(value).strip().lower()
    if said in TRUE:
        return True
    if said in FALSE:
        return False
    raise ValueError


def _text(value: Any, _: tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _choice(value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError
    return str(value)


def _whole(value: Any, _: tuple[str, ...]) -> int:
    number = int(value)
    if isinstance(value, (bool, float)) or number < 0:
        raise ValueError
    return number


def _number(value: Any, _: tuple[str, ...]) -> float:
    number = float(value)
    if isinstance(value, bool) or not 0.0 <= number < float("inf"):
        raise ValueError
    return number


def _effort(value: Any, levels: tuple[str, ...]) -> str | int:
    return _choice(value, levels) if value in levels else _whole(value, levels)


_PARSERS = {
    "flag": _flag,
    "text": _text,
    "choice": _choice,
    "whole": _whole,
    "number": _number,
    "effort": _effort,
}
_WANTED = {
    "flag": "yes or no; use 1 or 0",
    "text": "a text; put it in quotes",
    "choice": "one of those known; use one of: {}",
    "whole": "an integer of at least 0; use 0 or more",
    "number": "a number of at least 0; use 0 or more",
    "effort": "an effort; use one of: {}, or a number of steps",
}

KNOBS = (
    Knob(
        "options", "text", "",
        "a file (.toml or .json) that says the knobs below by their names in small letters; "
        "an environment variable beats it", in_file=False,
    ),
    Knob("vllm", "flag", False, "install evenload as vLLM's policy `default`"),
    Knob(
        "vllm_ascend", "flag", False,
        "install evenload for every `eplb_policy_type` of vllm-ascend's own runner",
    ),
    Knob(
        "sglang_elastic", "flag", False,
        "plan SGLang's `elasticity_aware` and `elasticity_aware_hierarchical` by evenload",
    ),
    Knob(
        "on_failure", "choice", "fallback",
        "where the self-test at registration fails: `fallback` keeps the engine's own policy, and "
        "still compares plans with the other ranks; `raise` does not let the engine start",
        ("fallback", "raise"),
    ),
    Knob(
        "placement", "text", "",
        "a placement that was planned ahead: every rebalance of vLLM returns it, whatever the load",
    ),
    Knob("solver", "text", "auto", "solver by name; `auto` moves few experts"),
    Knob(
        "effort", "effort", None, "how long a plan is searched for, where the solver takes it",
        ("fast", "standard", "thorough"),
    ),
    Knob(
        "move_cost", "number", None,
        "balancedness that a move has to gain in its layer; without it 0.1 over a layer's slots",
    ),
    Knob("max_moves", "whole", None, "experts of one layer that may move in a rebalance"),
    Knob("max_total_moves", "whole", None, "experts of all layers that may move in a rebalance"),
    Knob(
        "topology", "choice", "auto",
        "`strict` keeps the replicas of a group on one node, `ignore` plans without groups, `auto` "
        "is strict where the groups divide over the nodes",
        ("auto", "strict", "ignore"),
    ),
    Knob(
        "agree", "flag", True,
        "vLLM's ranks compare the digests of their plans at each rebalance, and all keep the old "
        "map where two differ",
    ),
    Knob(
        "agree_timeout", "number", 300.0,
        "seconds after which a rank that compares alone raises; the first comparison is before "
        "serving",
    ),
    Knob(
        "num_threads", "whole", None, "threads of a plan, default one a core and at most 8; it "
        "never changes a plan", in_file=False,
    ),
)  # fmt: skip
