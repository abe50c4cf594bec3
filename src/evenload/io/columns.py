"""What the columns of a table of loads, and keys of a file, mean by their names.

`MEANINGS` says which names a column may have. They are those met in public code:
``layer_id,expert_id,count`` was written by SGLang's first recorder
(``expert_distribution_rank*.csv``), ``layer,expert,count`` by several forks of llama.cpp, some with
``#`` in front.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from evenload.io.files import first_twice
from evenload.trace import PHASES

# Case, spaces, "_" and "-" do not matter. The first name is the one that is written.
MEANINGS = {
    "window": ("window", "step", "iteration", "time", "window_id", "step_id", "iter"),
    "layer": ("layer", "layer_id", "layer_idx", "layer_index", "moe_layer", "moe_layer_id"),
    "expert": ("expert", "expert_id", "expert_idx", "expert_index"),
    "tokens": (
        "tokens", "count", "counts", "load", "selection_count", "n", "cnt", "num_tokens",
        "token_count", "expert_count", "expert_counts", "expert_load", "logical_count",
        "logical_expert_load",
    ),
    "phase": ("phase",),
}  # fmt: skip
LONG = ("layer", "expert", "tokens")
_PLACES = ("node", "gpu", "rank", "device", "slot", "host")
_EXPERT = re.compile(r"(?:expert_?)?(0|[1-9]\d{0,5})", re.ASCII)
_IGNORED = re.compile(r"[\s_-]+")


def _plain(name: str) -> str:
    return _IGNORED.sub("", name).casefold()


_KNOWN = {_plain(name): meaning for meaning, names in MEANINGS.items() for name in names}


def meaning_of(name: Any) -> str | None:
    """Return what a column or key of this name holds, one of `MEANINGS`; None if not known."""
    return _KNOWN.get(_plain(name)) if isinstance(name, str) else None


def phase_code(column: str, value: Any) -> int:
    """Return the number of a phase in `PHASES` by its name; a `ValueError` for what is none."""
    name = value.strip().lower() if isinstance(value, str) else value
    if name not in PHASES:
        raise ValueError(
            f"column {column!r} has {value!r:.40}, which is not a phase; use "
            f"{' or '.join(PHASES)}, or rename the column"
        )
    return PHASES.index(name)


def place_of(name: str) -> str | None:
    """Return the word for a place of experts, as ``gpu``, if a name is one, else None."""
    word = re.sub(r"(id|idx|index)$", "", _plain(name))
    return word if word in _PLACES else None


class Columns(NamedTuple):
    """The columns of a table by what they mean: the place of each in a row."""

    window: int | None
    layer: int  # -1 if rows are layers
    expert: int | None  # None in wide form
    tokens: tuple[int, ...]  # one in long form, one of each expert in wide form
    left: tuple[str, ...] = ()  # names of columns that are not read
    phase: int | None = None

    def without_phase(self, names: Sequence[str]) -> Columns:
        """Return them without the phase, whose column has numbers: nobody says what they mean."""
        assert self.phase is not None
        return self._replace(phase=None, left=(*self.left, names[self.phase]))

    @property
    def indices(self) -> list[int]:
        """All columns that are whole numbers: window, layer and expert, as far as there are."""
        places = (self.window, self.layer, self.expert)
        return [i for i in places if i is not None and i >= 0]

    @property
    def used(self) -> list[int]:
        """All columns that are read."""
        return [*self.indices, *self.tokens, *([] if self.phase is None else [self.phase])]


def by_place(width: int) -> Columns:
    """Return the columns of a long table without names."""
    if width not in (3, 4):
        raise ValueError(
            f"a long table without known names has {width} columns; use layer, expert, tokens, or "
            "window, layer, expert, tokens"
        )
    first = width - 3
    return Columns(0 if first else None, first, first + 1, (first + 2,))


def columns_of(names: Sequence[str]) -> Columns | None:
    """Return what the columns of a table mean by their names; None if none of them is known.

    Names that are known in part, twice, or say where experts live, are a `ValueError`.
    """
    if (twice := first_twice(names)) is not None:
        raise ValueError(f"two columns are named {twice!r}; leave one out")
    found = dict[str, int]()
    for place, name in enumerate(names):
        meaning = meaning_of(name)
        if meaning in found:
            raise ValueError(
                f"the columns {names[found[meaning]]!r} and {name!r} both mean {meaning}; leave "
                "one out, or rename it"
            )
        if meaning is not None:
            found[meaning] = place
    if all(meaning in found for meaning in LONG):
        left = (n for i, n in enumerate(names) if i not in found.values())
        layer, expert, tokens = (found[meaning] for meaning in LONG)
        return Columns(
            found.get("window"), layer, expert, (tokens,), tuple(left), found.get("phase")
        )
    places = [name for name in names if place_of(name)]
    listed = ", ".join(names)[:120]
    if "expert" in found and places:
        raise ValueError(
            f"the columns are {listed}: a placement (the {place_of(places[0])} of each expert), "
            "not loads; --as placement reads it as one, and loads need a column of tokens"
        )
    others = {i: n for i, n in enumerate(names) if i not in found.values()}
    matches = {i: _EXPERT.fullmatch(name.strip().lower()) for i, name in others.items()}
    numbered = all(matches.values()) and bool(matches)
    if not found and not numbered:
        return None
    if numbered and found.keys() <= {"window", "layer", "phase"}:
        numbers = {int(match[1]): i for i, match in matches.items() if match is not None}
        missing = next((e for e in range(len(matches)) if e not in numbers), None)
        if missing is not None:
            raise ValueError(
                f"of the columns of experts {missing} is missing or one is there twice; use one "
                "an expert, from 0 without gaps"
            )
        experts = tuple(numbers[e] for e in range(len(numbers)))
        if found and "layer" not in found:
            raise ValueError(f"the columns are {listed}: none is the layer; add one named layer")
        layer = found.get("layer", -1)
        return Columns(found.get("window"), layer, None, experts, phase=found.get("phase"))
    lacking = " and ".join(meaning for meaning in LONG if meaning not in found)
    raise ValueError(
        f"the columns are {listed}: none is the {lacking}; use layer, expert and tokens, or layer "
        "and one column an expert (0, 1, ... or expert_0, expert_1, ...), and window in front "
        "where there are several"
    )
