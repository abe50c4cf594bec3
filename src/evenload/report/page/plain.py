"""A story as plain numbers and texts, which the page's script reads as JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from evenload.report.page.hot import num_hottest
from evenload.report.page.pack import pack, rounded, step_for
from evenload.report.page.palette import styles
from evenload.report.page.sample import Buckets
from evenload.report.page.series import Balance, Moving
from evenload.report.page.story import Story


def _balance(balance: Balance | None) -> dict[str, Any] | None:
    if balance is None:
        return None
    return {"mean": rounded(balance.mean, 4), "worst": rounded(balance.worst, 4)}


def _significant(values: Any) -> list[float]:
    """Round to six significant digits: seconds may be of any size."""
    return [float(f"{value:.6g}") for value in np.asarray(values, np.float64).ravel()]


def _moving(moving: Moving, windows: Any) -> dict[str, Any]:
    return {
        "moved": [int(n) for n in moving.moved],
        "saved": _significant(moving.saved),
        "at": windows[moving.at].tolist(),
        "moves": [int(n) for n in moving.moves],
        "seconds": _significant(moving.seconds),
        "paid": moving.paid.tolist(),
    }


def _runs(windows: Any, runs: Buckets) -> dict[str, Any]:
    first, last = windows[runs.edges[:-1]], windows[runs.edges[1:] - 1]
    return {"first": first.tolist(), "last": last.tolist()}


def _loads(story: Story) -> dict[str, Any]:
    step = step_for(float(np.nanmax(story.maps)))
    _, _, L, G = story.maps.shape
    return {
        "windows": story.windows[story.shown].tolist(),
        "layers": L,
        "gpus": G,
        "nodes": story.num_nodes,
        "step": step,
        "maps": [pack(of, step) for of in story.maps],
    }


def _hot(story: Story) -> dict[str, Any]:
    hot = story.hot
    step = step_for(float(hot.load.max()))
    return {
        "experts": hot.experts.tolist(),
        "load": pack(hot.load, step),
        "step": step,
        "layer": hot.layer,
        "count": num_hottest(story.num_experts),
        "since_last": rounded(hot.since_last, 3),
        "since_first": rounded(hot.since_first, 3),
        "columns": _runs(story.windows, story.columns),
    }


def to_plain(story: Story) -> dict[str, Any]:
    """Return what the script draws from; NaN is None, loads are packed (see `pack`)."""
    curve = story.tradeoff
    return {
        "policies": list(story.names),
        "styles": styles(len(story.names), story.hero),
        "hero": story.hero,
        "windows": _runs(story.windows, story.buckets),
        "balance": [_balance(of) for of in story.balances],
        "oracle": _balance(story.oracle),
        "start": _balance(story.start) if story.shows_start else None,
        "moving": [_moving(of, story.windows) for of in story.movings],
        "tradeoff": {
            "x": _significant(curve.x),
            "y": rounded(curve.y, 5),
            "curves": [list(members) for members in curve.curves],
            "labels": list(curve.labels),
            "x_range": list(curve.x_range),
            "y_range": list(curve.y_range),
            "start": round(story.start_balancedness, 5) if story.shows_start else None,
            "oracle": next((s.oracle for s in story.scores if s.oracle is not None), None),
        },
        "loads": _loads(story),
        "hot": _hot(story),
    }
