"""What came of a replay, and a sweep's rows in one file."""

import csv
import glob
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import Float, Int
from evenload.checks import unknown_ending
from evenload.cluster import Cluster
from evenload.extras import needed
from evenload.io import replace_file
from evenload.io.files import remove_unfinished

ENDINGS = (".parquet", ".csv", ".json")


@dataclass(frozen=True, eq=False)
class Replay:
    """A policy's course over the windows W of a trace that were served, and its R rebalances."""

    policy: str  #: its name
    cluster: Cluster
    merge: int  #: recorded windows summed into each window of the replay
    interval: int  #: windows from one decision to the next
    settings: dict[str, Any]  #: all that made it, in plain numbers and strings
    notes: tuple[str, ...]  #: what was left out or assumed, one sentence each
    windows: Int  #: numbers of the windows that were served, [W]
    #: Reached, in (0, 1], [W, L]; the mean over a window in which a layer changes over.
    balancedness: Float
    #: What the placement at the beginning would have reached, [W, L]; the same as `balancedness`
    #: before the first rebalance.
    start_balancedness: Float
    #: Best known of the window itself, [W, L]: planned on it, or reached where that is more; NaN
    #: where none was asked for.
    oracle: Float
    mean_seconds: Float  #: what a layer would take if it were perfectly balanced, [W, L]
    served: Int  #: which of `placements` served, or was being moved to, [W]
    #: The one at the beginning, and that of each rebalance, int16 or int32 [R + 1, L, S]; only the
    #: last where the others were not to be kept.
    placements: NDArray[Any]
    rebalance_window: Int  #: number of the window before which the moves began, [R]
    moves: Int  #: of each layer, [R, L]
    moved_bytes: Float  #: weights that crossed a link, [R]
    transfer_seconds: Float  #: how long the transfers took, [R]
    move_seconds: Float  #: how much of that serving stood still, [R]
    #: Of straggler time while each rebalance's placement was kept, against the placement at the
    #: beginning, [R].
    saved_seconds: Float
    planning_seconds: Float  #: to decide, by the clock, [R]; nothing else depends on it
    asked: int  #: how often the policy was
    put_off: int  #: how often it was not asked because experts were still moving
    asked_seconds: float  #: of all decisions, those to keep included
    #: Slacks that copies were counted at, the policy's own first, then those of the advice, [C];
    #: empty where no experts are copied.
    slacks: Float
    copies: Float  #: of experts, in each window at each slack, [W, C, L]
    copied: Float  #: part of the tokens that copies computed, at the policy's slack, [W or 0, L]

    @property
    def dispatch(self) -> str:
        """How a replica was picked for a token: what the windows were judged by."""
        return str(self.settings.get("dispatch", "even"))

    @property
    def num_rebalances(self) -> int:
        """Rebalances R."""
        return len(self.rebalance_window)

    @property
    def straggler_seconds(self) -> Float:
        """Time of each layer's slowest GPU, float64 [W, L]."""
        return self.mean_seconds / self.balancedness

    @property
    def regret(self) -> Float:
        """Balancedness that the oracle had over what was reached, float64 [W, L]."""
        return self.oracle - self.balancedness

    @property
    def net_seconds(self) -> Float:
        """What each rebalance saved while its placement was kept, less what its moves took: [R].

        Against the placement at the beginning, so that they add up: to the `total_seconds` of never
        moving, less one's own (but for what copies of experts save before the first rebalance).
        """
        return self.saved_seconds - self.move_seconds

    @property
    def outlasted(self) -> NDArray[np.bool_]:
        """Whether the transfers of each rebalance took longer than the window after it: [R]."""
        window = self.straggler_seconds.sum(axis=1)
        at = np.searchsorted(self.windows, self.rebalance_window)
        return np.asarray(self.transfer_seconds > window[at])

    @property
    def total_seconds(self) -> float:
        """Straggler time of all windows and layers, and what moving took from serving."""
        return float(self.straggler_seconds.sum() + self.move_seconds.sum())

    def figures(self) -> dict[str, Any]:
        """Return the figures of the whole replay as plain numbers, for tables and files.

        ``oracle`` and ``regret`` are None where there is no oracle; ``moved_share`` is the part of
        all slots that a rebalance moved, on average.
        """
        slots = self.cluster.num_slots * self.balancedness.shape[1]
        count = self.num_rebalances
        has_oracle = not np.isnan(self.oracle).any()
        ideal = float(self.mean_seconds.sum())
        never = float((self.mean_seconds / self.start_balancedness).sum())
        return {
            "policy": self.policy,
            "dispatch": self.dispatch,
            "num_windows": len(self.windows),
            "balancedness": float(self.balancedness.mean()),
            "worst_window": float(self.balancedness.mean(axis=1).min()),
            "oracle": float(self.oracle.mean()) if has_oracle else None,
            "regret": float(self.regret.mean()) if has_oracle else None,
            "straggler_seconds": float(self.straggler_seconds.sum()),
            "window_seconds": float(self.straggler_seconds.sum()) / len(self.windows),
            "straggler_time": float(self.straggler_seconds.sum()) / ideal,
            "rebalances": count,
            "asked": self.asked,
            "put_off": self.put_off,
            "moves": int(self.moves.sum()),
            "moved_share": float(self.moves.sum() / (count * slots)) if count else 0.0,
            "moved_bytes": float(self.moved_bytes.sum()),
            "transfer_seconds": float(self.transfer_seconds.sum()),
            "move_seconds": float(self.move_seconds.sum()),
            "saved_seconds": float(self.saved_seconds.sum()),
            "net_seconds": never - self.total_seconds,
            "outlasted": int(self.outlasted.sum()),
            "total_seconds": self.total_seconds,
            "copies": float(self.copies[:, 0].mean()) if self.slacks.size else None,
            "copied_share": float(self.copied.mean()) if self.slacks.size else None,
            "planning_ms": 1e3 * self.asked_seconds / self.asked if self.asked else 0.0,
        }

    @property
    def copy_advice(self) -> tuple[str, ...]:
        """What was copied, and how much slack saves how many copies; empty where none is copied."""
        if not self.slacks.size:
            return ()
        mean = self.copies.mean(axis=(0, 2))
        by_slack = ", ".join(
            f"{slack:.0%}: {count:.2f}"
            for slack, count in zip(self.slacks[1:], mean[1:], strict=True)
        )
        return (
            f"{self.policy} copied {mean[0]:.2f} experts per layer and window, for "
            f"{self.copied.mean():.1%} of the tokens; the seconds leave out what fetching takes",
            f"copies from these homes by slack: {by_slack}",
        )

    def summary(self) -> str:
        """Return the figures in a few lines of text."""
        f = self.figures()
        oracle = "" if f["oracle"] is None else f", oracle {f['oracle']:.4f}"
        lines = [
            f"{self.policy} over {f['num_windows']} windows on {self.cluster}"
            f"{'' if self.dispatch == 'even' else f', dispatch {self.dispatch}'}",
            f"balancedness    mean {f['balancedness']:.4f}, worst window {f['worst_window']:.4f}"
            f"{oracle}",
            f"straggler time  {f['straggler_seconds']:.4g} s, {f['straggler_time']:.4f} x ideal; "
            f"{f['window_seconds']:.4g} s per window",
            f"rebalances      {f['rebalances']}; asked {f['asked']} times, "
            f"{f['planning_ms']:.2f} ms each; {f['outlasted']} with transfers longer than the "
            "window",
            f"moves           {f['moves']:,} ({f['moved_share']:.1%} of slots per rebalance), "
            f"{f['moved_bytes'] / 1e9:.4g} GB, serving stood still for {f['move_seconds']:.4g} s",
            f"total           {f['total_seconds']:.4g} s, {f['net_seconds']:.4g} s less than never "
            "moving",
        ]
        notes = (*self.copy_advice, *self.notes)
        return "\n".join([*lines, *(f"note            {note}" for note in notes)])

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw the balancedness of each window, and when experts moved; needs matplotlib.

        Returns a ``matplotlib.figure.Figure``, saved too where a path to a ``.png``, ``.svg`` or
        ``.pdf`` is given. Without matplotlib (extra ``plot``) it is a `ValueError`.
        """
        from evenload.report.figures import draw_replay, drawn

        return drawn(draw_replay, self, path)

    def _repr_html_(self) -> str:
        from evenload.report.html import replay_html

        return replay_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Return it as nested dicts and lists of plain numbers, for JSON; placements left out."""
        figures = self.figures()
        means = ("balancedness", "start_balancedness", "oracle")
        windows = {"window": self.windows} | {name: getattr(self, name).mean(1) for name in means}
        for name in ("straggler_seconds", "mean_seconds"):
            windows[name] = getattr(self, name).sum(1)
        rebalances = {"window": self.rebalance_window, "moves": self.moves.sum(1)}
        for name in ("moved_bytes", "transfer_seconds", "move_seconds", "saved_seconds",
                     "planning_seconds", "net_seconds", "outlasted"):  # fmt: skip
            rebalances[name] = getattr(self, name)
        per_window: dict[str, Any] = {name: column.tolist() for name, column in windows.items()}
        if figures["oracle"] is None:
            per_window["oracle"] = None
        return {
            **figures,
            "settings": self.settings,
            "notes": list(self.notes),
            "copies_by_slack": [
                {"slack": slack, "copies": count}
                for slack, count in zip(
                    self.slacks.tolist(), self.copies.mean(axis=(0, 2)).tolist(), strict=True
                )
            ],
            "per_window": per_window,
            "per_rebalance": {name: column.tolist() for name, column in rebalances.items()},
        }

    def __repr__(self) -> str:
        return (
            f"<Replay of {self.policy}: {len(self.windows)} windows, balancedness "
            f"{float(self.balancedness.mean()):.4f}, {self.num_rebalances} rebalances, "
            f"{int(self.moves.sum())} moves>"
        )


def check_results_path(path: str | os.PathLike[str]) -> None:
    """Raise `ValueError` unless a sweep's rows can be written to a file of that name."""
    place = Path(path)
    if ending := unknown_ending(place, ENDINGS):
        raise ValueError(
            f"{place}: a sweep is not written to files with {ending}; use one of "
            f"{', '.join(ENDINGS)}"
        )
    if place.suffix.lower() == ".parquet":
        needed(
            "pyarrow.parquet", "pyarrow", "parquet", f"{place}: Parquet",
            instead="a file ending in .csv or .json",
        )  # fmt: skip


def write_results(path: str | os.PathLike[str], rows: Sequence[dict[str, Any]]) -> None:
    """Write a sweep's rows, one a cell; the file appears whole or not at all.

    The path ends in .parquet (needs pyarrow), .csv or .json; else it is a `ValueError`.
    """
    check_results_path(path)
    ending, text = Path(path).suffix.lower(), io.StringIO(newline="")
    remove_unfinished(Path(path).parent, glob.escape(Path(path).name))
    with replace_file(path) as stream:
        if ending == ".parquet":
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), stream)
        elif ending == ".json":
            text.write(json.dumps(list(rows), indent=1) + "\n")
        else:
            writer = csv.DictWriter(text, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        stream.write(text.getvalue().encode())
