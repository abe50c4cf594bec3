"""What the user asked of a plug-in, from the environment and a file."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evenload.engines.common.knobs import KNOBS, PREFIX

MOST_BYTES = 1 << 20  # of an options file


@dataclass(frozen=True, kw_only=True)
class Options:
    """Every knob's value; see `knobs.KNOBS` for what each means."""

    options: str
    vllm: bool
    vllm_ascend: bool
    sglang_elastic: bool
    on_failure: str
    placement: str
    solver: str
    effort: str | int | None
    move_cost: float | None
    max_moves: int | None
    max_total_moves: int | None
    topology: str
    agree: bool
    agree_timeout: float
    num_threads: int | None

    def for_solver(self, something_runs: bool) -> dict[str, Any]:
        """Return the options of the solver that were said; what moves cost, where there are any."""
        names = [
            "effort",
            *(("move_cost", "max_moves", "max_total_moves") if something_runs else ()),
        ]
        said = {name: getattr(self, name) for name in names}
        return {name: value for name, value in said.items() if value is not None}

    @property
    def what_plans(self) -> str:
        """The solver, or the file of a placement planned ahead: for the log."""
        return self.placement or self.solver

    @property
    def fingerprint(self) -> bytes:
        """Digest of the release and of all that shapes a plan, 16 bytes."""
        from evenload import __version__

        shaping = {"solver": self.solver, "topology": self.topology, **self.for_solver(True)}
        if self.placement:
            from evenload.engines.common.static_plan import static_plan

            shaping = {"placement": static_plan(self.placement).digest}
        said = repr((__version__, sorted(shaping.items())))
        return hashlib.sha256(said.encode()).digest()[:16]


def read_options(environment: Mapping[str, str] | None = None) -> Options:
    """Read the knobs; an environment variable beats the options file.

    Imports neither NumPy nor Numba, so that asking costs next to nothing.

    Parameters
    ----------
    environment : mapping, optional
        Default: that of the process.

    Raises
    ------
    ValueError
        For a value that is not of its knob's kind, a knob that does not exist, or an options file
        that cannot be read.
    """
    environ = os.environ if environment is None else environment
    values = {knob.name: knob.default for knob in KNOBS}
    by_variable = {knob.variable: knob for knob in KNOBS}
    for variable in environ:
        if variable.startswith(PREFIX) and variable not in by_variable:
            raise ValueError(f"{variable} is no setting; {_nearest(variable, list(by_variable))}")
    file = environ.get(f"{PREFIX}OPTIONS", "")
    if file:
        values.update(_from_file(Path(file)))
    for variable, knob in by_variable.items():
        if variable in environ:
            values[knob.name] = knob.parse(environ[variable], variable)
    return Options(**values)


def default_options() -> Options:
    """Return what holds where nothing is said."""
    return read_options({})


def is_asked_for(name: str) -> bool:
    """Whether the knob of an engine is on, or the user tried to say so and failed.

    A setting that cannot be read counts as asked for, so that it is told of and not passed over;
    without any setting this only looks at the environment.
    """
    if not any(variable in os.environ for variable in (PREFIX + name.upper(), f"{PREFIX}OPTIONS")):
        return False
    try:
        return bool(asdict(read_options())[name])
    except ValueError:
        return os.environ.get(PREFIX + name.upper(), "1").strip() != "0"


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"use {near[0]}" if near else f"use one of: {', '.join(known)}"


def _from_file(path: Path) -> dict[str, Any]:
    said = _parsed(path)
    if not isinstance(said, dict):
        raise ValueError(f"{path} holds a {type(said).__name__}; use names and values")
    knobs = {knob.name: knob for knob in KNOBS if knob.in_file}
    for name in said:
        if name not in knobs:
            raise ValueError(f"{path} says {name!r}, which is no setting of a file; "
                             f"{_nearest(name, list(knobs))}")  # fmt: skip
    return {name: knobs[name].parse(value, f"{path}: {name}") for name, value in said.items()}


def _parsed(path: Path) -> Any:
    import json
    import tomllib

    readers = {".json": json.loads, ".toml": tomllib.loads}
    if path.suffix not in readers:
        raise ValueError(f"{PREFIX}OPTIONS={path} ends in neither .toml nor .json; use one of them")
    try:
        with path.open("rb") as stream:
            raw = stream.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise ValueError("it has more than 1 MB")
        return readers[path.suffix](raw.decode())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{PREFIX}OPTIONS={path} cannot be read: {error}") from None
