"""Planning strategies, one a file, each a function from a problem to a placement.

A package adds a strategy by declaring a function of the `Solver` protocol in its entry point group
``evenload.solvers``. Names of evenload's own strategies stay evenload's.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

from evenload.placement import Placement
from evenload.problem import Problem
from evenload.solvers.answer import Answer

GROUP = "evenload.solvers"
# Not entry points: to look for those opens the metadata of every installed package.
OURS = {
    name: EntryPoint(name, f"{GROUP}.{name.replace('-', '_')}:{name.replace('-', '_')}", GROUP)
    for name in ("exact", "greedy", "incremental", "iterated-greedy", "joint", "local-search")
}


class Solver(Protocol):
    """What a strategy looks like: ``solver(problem, **options) -> Placement`` or `Answer`.

    It must be deterministic, must not change the problem, and must place every expert; options are
    keyword-only with defaults.
    """

    def __call__(self, problem: Problem, **options: Any) -> Placement | Answer: ...  # noqa: D102


@cache
def _declared() -> dict[str, dict[str, EntryPoint]]:
    """Entry points by name, then by what they name: a package may be found twice on the path."""
    found: dict[str, dict[str, EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        if entry.name not in OURS:
            found.setdefault(entry.name, {})[entry.value] = entry
    return found


def solver_names() -> list[str]:
    """Return the names that `get_solver` knows, sorted."""
    return sorted([*OURS, *_declared()])


def get_solver(name: str) -> Solver:
    """Return a strategy by name.

    Raises
    ------
    ValueError
        If neither evenload nor an installed package declares the name (the message lists those
        that are), or several packages mean different functions by it.
    """
    if isinstance(name, str) and name in OURS:
        return OURS[name].load()  # type: ignore[no-any-return]
    if not isinstance(name, str) or name not in _declared():
        known = ", ".join(["auto", *solver_names()])
        raise ValueError(f"solver={name!r} is unknown; use one of: {known}")
    candidates = _declared()[name]
    if len(candidates) > 1:
        raise ValueError(
            f"solver={name!r} is declared as {' and as '.join(sorted(candidates))}; "
            "uninstall all but one of these packages"
        )
    solver: Solver = next(iter(candidates.values())).load()
    return solver
