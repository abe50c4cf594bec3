"""A summary as plain numbers and lists, for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import evenload
from evenload.report.context import Context
from evenload.report.summary import Float, Int, Summary


def _per_layer(values: Float | None) -> dict[str, Any] | None:
    if values is None:
        return None
    worst = int(values.argmin())
    return {
        "mean": float(values.mean()),
        "worst": float(values[worst]),
        "worst_layer": worst,
        "per_layer": values.tolist(),
    }


def _mean_per_layer(values: Float | None) -> dict[str, Any] | None:
    if values is None:
        return None
    return {"mean": float(values.mean()), "per_layer": values.tolist()}


def _total(values: Int) -> dict[str, Any]:
    return {"total": int(values.sum()), "per_layer": values.tolist()}


def to_plain(summary: Summary, first: str = "trivial") -> dict[str, Any]:
    """Return a summary as nested dicts of plain numbers, strings and lists.

    Parameters
    ----------
    summary : Summary
    first : str
        Name of the placement that moves are counted from.

    Returns
    -------
    dict
        ``gap`` is a mean and a largest value; times are in milliseconds. ``bound`` and ``gap`` are
        on even sharing of an expert's tokens; ``split_balancedness`` may be above the bound.
    """
    gap = summary.gap
    return {
        "name": summary.name,
        "solver": summary.solver,
        "balancedness": _per_layer(summary.balancedness),
        "bound": _per_layer(summary.bound),
        "gap": None if gap is None else {"mean": float(gap.mean()), "largest": float(gap.max())},
        "split_balancedness": _per_layer(summary.split_balancedness),
        "straggler_time": summary.straggler_time,
        "heaviest_gpu": asdict(summary.heaviest),
        "lightest_gpu": asdict(summary.lightest),
        "away_share": _mean_per_layer(summary.away_share),
        "nodes_per_token": _mean_per_layer(summary.nodes_per_token),
        "duplicates": _total(summary.duplicates),
        f"moves_from_{first}": _total(summary.moves),
        "planning_ms": summary.milliseconds,
    }


def report_to_plain(context: Context, summaries: Sequence[Summary]) -> dict[str, Any]:
    """Return a whole report as nested dicts and lists; the best placement comes last."""
    placements = [to_plain(summary, summaries[0].name) for summary in summaries]
    return {"evenload": evenload.__version__, **context.to_plain(), "placements": placements}
