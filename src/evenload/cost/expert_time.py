"""The time that one expert takes a GPU, by the tokens that it has in a batch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evenload.arrays import Float
from evenload.checks import one_of, positive_real
from evenload.cost.curve_files import read_curve
from evenload.cost.presets import HARDWARE, MODELS, READING, UTILISATION

CURVES = Path(__file__).parent / "curves"  # {hardware}-{hidden}x{intermediate}-{dtype}.csv
NEVER_MEASURED = "roofline, never measured"


@dataclass(frozen=True)
class ExpertTime:
    """Seconds that one expert takes a GPU for its tokens in one batch: points, linear between.

    It takes nothing without tokens. A curve whose points start above one token takes the first
    point's time from one token on, because the first token already reads all weights. Past the last
    point it goes on as between the last two.

    Parameters
    ----------
    points : sequence of (float, float)
        Tokens, rising, and seconds, which never fall; the last two differ. At least two; (0, 0) may
        be left out.
    source : str
        Where the points come from, for people.

    Raises
    ------
    ValueError
        If the points are no such curve.

    Examples
    --------
    >>> time = ExpertTime([(1, 3e-6), (100, 3e-6), (200, 6e-6)])
    >>> time.seconds([0, 1, 50, 150, 300])
    array([0.0e+00, 3.0e-06, 3.0e-06, 4.5e-06, 9.0e-06])
    """

    points: Sequence[tuple[float, float]]
    source: str = "given"

    def __post_init__(self) -> None:
        self.__dict__["points"] = _checked(self.points)

    @classmethod
    def linear(cls, tokens_per_second: float) -> ExpertTime:
        """Return the time of tokens that wait for no weights: in proportion to their number."""
        speed = positive_real("tokens_per_second", tokens_per_second)
        return cls([(0.0, 0.0), (speed, 1.0)], f"{speed:.4g} tokens per second")

    @classmethod
    def roofline(
        cls, expert_bytes: float, memory_bandwidth: float, operations: float, rate: float
    ) -> ExpertTime:
        """Return the longer of reading the weights once, and of computing with them.

        Parameters
        ----------
        expert_bytes, memory_bandwidth : float
            Bytes of one expert's weights, and how many the GPU reads per second.
        operations, rate : float
            Operations of one expert for one token, and how many the GPU does per second.
        """
        read = positive_real("expert_bytes", expert_bytes)
        read /= positive_real("memory_bandwidth", memory_bandwidth)
        compute = positive_real("operations", operations) / positive_real("rate", rate)
        even = read / compute  # tokens for which both take as long
        bend = [(1.0, read), (even, read)] if even > 1.0 else []
        end = (2.0 * even, 2.0 * read) if bend else (1.0, compute)
        return cls([(0.0, 0.0), *bend, end], NEVER_MEASURED)

    @classmethod
    def preset(cls, hardware: str, model: str, *, measured: bool = True) -> ExpertTime:
        """Return the time of a model's expert on a machine; `source` says how it is known.

        That is the curve measured there for experts of this size and type, if there is one. Else,
        or without `measured`, it is a roofline of a data sheet's figures: 80 % of the memory's
        bandwidth, and half of the peak operations, as in `CostModel.preset`. The names are those of
        `hardware_names` and `model_names`; an unknown one is a `ValueError` that lists them.
        """
        machine = HARDWARE[one_of("hardware", hardware, HARDWARE)]
        experts = MODELS[one_of("model", model, MODELS)]
        sides = f"{experts.hidden_size}x{experts.intermediate_size}"
        file = CURVES / f"{hardware}-{sides}-{experts.dtype}.csv"
        if measured and file.is_file():
            return cls.read(file)
        reading, rate = (
            READING * machine.memory_bandwidth,
            UTILISATION * machine.flops(experts.dtype),
        )
        return cls.roofline(experts.num_bytes, reading, experts.operations, rate)

    @classmethod
    def named(cls, name: str) -> ExpertTime:
        """Return the curve of a .csv file, or that of a preset as ``"h100-ib:qwen3-30b-a3b"``.

        Raises `ValueError` for another name, and as `read` and `preset`.
        """
        hardware, colon, model = name.partition(":")
        if name.endswith(".csv"):
            return cls.read(name)
        if colon:
            return cls.preset(hardware, model)
        raise ValueError(
            f"expert_time={name!r} names no curve; use a .csv file, or hardware and model as "
            "h100-ib:qwen3-30b-a3b"
        )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ExpertTime:
        """Read a curve from a .csv with the columns ``tokens`` and ``seconds``.

        Or one of ``evenload measure-expert-time``, which also has ``active``: how many experts were
        active. One expert then takes its part of the layer with most of them. Where
        such a measured time falls with more tokens, it is raised to what fewer took. Raises
        `ValueError` for other files and curves.
        """
        try:
            return cls(*read_curve(Path(path)))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @property
    def is_proportional(self) -> bool:
        """Whether twice the tokens take twice as long everywhere, so that seconds are tokens."""
        most, longest = self.points[-1]
        return all(abs(s * most - n * longest) <= 1e-12 * s * most for n, s in self.points)

    def seconds(self, tokens: Any) -> Float:
        """Return the seconds for these tokens of one expert in a batch, float64 [...]."""
        number = np.asarray(tokens, np.float64)
        if not (number >= 0.0).all():
            bad = number[~(number >= 0.0)][0]
            raise ValueError(f"tokens={bad} is not a number of at least 0; use 0 or more")
        at, seconds = np.array(self.points).T
        i = np.clip(np.searchsorted(at, number, side="right") - 1, 0, len(at) - 2)
        rise = (number - at[i]) * (seconds[i + 1] - seconds[i]) / (at[i + 1] - at[i])
        return np.asarray(seconds[i] + rise)

    def expected_seconds(self, load: Any, *, tokens_per_batch: int, top_k: int = 1) -> Float:
        """Return the mean seconds per batch of each expert of a window, float64 [L, E].

        Each of the batch's tokens goes to the expert with the chance that the window tells, so that
        the expert's tokens follow a binomial distribution.

        Parameters
        ----------
        load : array_like [L, E] or [E]
            Tokens of each expert in the window. A layer without tokens takes no time.
        tokens_per_batch : int
            Tokens that all GPUs together put through a layer at once.
        top_k : int
            Experts that a token goes to. Default: 1, where `tokens_per_batch` counts a token once
            for each expert that it goes to.

        Raises
        ------
        ValueError
            If the load is none, or a number is less than 1.

        Examples
        --------
        >>> time = ExpertTime([(1, 1.0), (100, 1.0), (200, 2.0)])  # of reading the weights
        >>> time.expected_seconds([3.0, 1.0], tokens_per_batch=2).round(4)
        array([0.9375, 0.4375])
        """
        from evenload.cost.table import TimeTable

        table = TimeTable.build([self], tokens_per_batch)
        ticks = table.of(load, top_k=top_k)[0, 0]
        return np.asarray((ticks if np.ndim(load) > 1 else ticks[0]) * table.seconds_per_tick)


def _checked(points: Any) -> tuple[tuple[float, float], ...]:
    """Return points from (0, 0) on, each of two floats; `ValueError` if they are no curve."""
    try:
        array = np.asarray(points, np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError("points are not pairs of numbers; use [(tokens, seconds), ...]")
    if len(array) == 1:
        raise ValueError("points has one point, which is not a curve; use at least two")
    tokens, seconds = array.T
    for name, column in (("tokens", tokens), ("seconds", seconds)):
        if np.isnan(column).any():
            where = int(np.isnan(column).argmax())
            raise ValueError(f"points[{where}] has NaN {name}; measure it again, or leave it out")
        if not np.isfinite(column).all():
            where = int(np.isinf(column).argmax())
            raise ValueError(f"points[{where}] has infinite {name}; use a finite number")
        if (column < 0.0).any():
            where = int((column < 0.0).argmax())
            raise ValueError(f"points[{where}] has {column[where]} {name}, below 0; use 0 or more")
    if (np.diff(tokens) <= 0.0).any():
        where = int((np.diff(tokens) <= 0.0).argmax()) + 1
        raise ValueError(
            f"points[{where}] has {tokens[where]:g} tokens after {tokens[where - 1]:g}; sort the "
            "points by tokens, one for each number"
        )
    if tokens[0] == 0.0 and seconds[0] > 0.0:
        raise ValueError(
            f"points[0] starts above 0, at {seconds[0]:g} s for 0 tokens, which take no time; use "
            "0 s, or leave the point out"
        )
    if (np.diff(seconds) < 0.0).any():
        where = int((np.diff(seconds) < 0.0).argmax()) + 1
        raise ValueError(
            f"points[{where}] falls to {seconds[where]:g} s after {seconds[where - 1]:g} s; use "
            f"at least {seconds[where - 1]:g}, or measure both again"
        )
    if (seconds[tokens > 0.0] == 0.0).any():
        where = int(((tokens > 0.0) & (seconds == 0.0)).argmax())
        raise ValueError(
            f"points[{where}] takes 0 s for {tokens[where]:g} tokens; use more, or leave it out"
        )
    if seconds[-1] == seconds[-2]:
        raise ValueError(
            f"points ends flat at {seconds[-1]:g} s, as if more tokens never took longer; measure "
            "more tokens"
        )
    first = [] if tokens[0] == 0.0 else [(0.0, 0.0)]
    first += [(1.0, float(seconds[0]))] if tokens[0] > 1.0 else []
    return tuple(first + [(float(n), float(s)) for n, s in array])
