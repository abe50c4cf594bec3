"""Facts about loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from evenload.io.base import Float, RawTrace
from evenload.layers import ModelLayers
from evenload.report.digits import up
from evenload.report.inspect.facts import Facts, counted, some
from evenload.report.inspect.odd_loads import odd_in_loads
from evenload.report.inspect.scan import Scan, scan_loads

_LINES = (
    "skew: load of a layer's busiest expert over that of its mean expert.",
    "drift: part of a layer's tokens that go to other experts than in the window before (the "
    "total-variation distance of the two), mean over windows.",
    "by chance: what the drift would be if both windows had the same odds, and only chance set "
    "their tokens apart.",
)


def layer_name(layers: ModelLayers | None) -> Callable[[int], str]:
    """Return what people call the layer of a row: by the model's number where it is known."""
    if layers is None:
        return lambda row: f"layer {row}"
    return lambda row: f"model layer {layers.ids[row]}"


def layers_row(layers: ModelLayers | None) -> list[tuple[str, str]]:
    """Return the row on the model's layers, where they are known."""
    if layers is None:
        return []
    ids, number = layers.ids, layers.num_model_layers
    span = f"{ids[0]} to {ids[-1]}" if ids == tuple(range(ids[0], ids[-1] + 1)) else some(ids)
    known = "" if number is None else f" of {number}"
    dense = f"; without experts: {some(layers.dense)}" if layers.dense else ""
    return [("model layers", f"{span}{known}{dense}")]


def layers_to_plain(layers: ModelLayers | None) -> dict[str, Any] | None:
    """Return the model's layers as plain numbers and lists."""
    if layers is None:
        return None
    number, dense = layers.num_model_layers, list(layers.dense)
    return {"ids": list(layers.ids), "num_model_layers": number, "dense": dense}


def _per_layer(values: Float, counts: Any) -> dict[str, Any] | None:
    """Return mean and largest of what was summed, over the layers that have any."""
    there = counts > 0
    if not there.any():
        return None
    means = np.divide(values, counts, out=np.full(len(values), -1.0), where=there)
    worst = int(means.argmax())
    return {"mean": float(means[there].mean()), "most": float(means[worst]), "most_layer": worst}


def _skew_of_sum(total: Float) -> dict[str, Any] | None:
    tokens = total.sum(axis=1)
    used = tokens > 0.0
    skew = total.max(axis=1) * total.shape[1]
    return _per_layer(np.divide(skew, tokens, out=np.zeros_like(skew), where=used), used)


def _tokens(scan: Scan) -> dict[str, Any] | None:
    """Return how many tokens the layers of a window have, routed ones: k for each token."""
    used = scan.tokens > 0.0
    windows = np.flatnonzero(used.any(axis=1))
    if windows.size == 0:
        return None
    size = scan.tokens.sum(axis=1)[windows] / used.sum(axis=1)[windows]
    least, most = int(size.argmin()), int(size.argmax())
    exact = scan.whole and scan.tokens.max() < 2**53
    divisor = int(np.gcd.reduce(scan.tokens.astype(np.int64).ravel())) if exact else None
    return {
        "mean": float(size.mean()),
        "least": float(size[least]),
        "least_window": int(windows[least]),
        "most": float(size[most]),
        "most_window": int(windows[most]),
        "multiple_of": divisor,
    }


def _figures(scan: Scan) -> dict[str, Any]:
    used = (scan.tokens > 0.0).sum(axis=0)
    return {
        "tokens_per_layer": _tokens(scan),
        "skew": _skew_of_sum(scan.total),
        "skew_in_one_window": _per_layer(scan.skew, used),
        "drift": _per_layer(scan.drift, scan.pairs),
        "drift_by_chance": _per_layer(scan.chance, scan.pairs) if scan.whole else None,
    }


def _spread(figure: dict[str, Any] | None, name: Callable[[int], str]) -> str:
    if figure is None:
        return "-"
    mean, most = up(figure["mean"], 3), up(figure["most"], 3)
    return f"{mean} mean, at most {most} ({name(figure['most_layer'])})"


def _token_rows(tokens: dict[str, Any] | None, windows: int) -> list[tuple[str, str]]:
    if tokens is None:
        return [("routed tokens", "none")]
    rows = [("routed tokens, of a layer", f"{tokens['mean']:,.0f}")]
    if windows > 1 and tokens["least"] == tokens["most"]:
        rows = [("routed tokens, of a layer in a window", f"{tokens['mean']:,.0f} in each")]
    elif windows > 1:
        span = (
            f"{tokens['mean']:,.0f} mean, {tokens['least']:,.0f} (window "
            f"{tokens['least_window']}) to {tokens['most']:,.0f} (window {tokens['most_window']})"
        )
        rows = [("routed tokens, of a layer in a window", span)]
    if (tokens["multiple_of"] or 0) > 1:
        rows.append(("they are multiples of", f"{tokens['multiple_of']:,}"))
    return rows


def _rows(scan: Scan, layers: ModelLayers | None, figures: dict[str, Any]) -> list[tuple[str, str]]:
    T, name = scan.shape[0], layer_name(layers)
    rows = [("numbers", scan.dtype), *layers_row(layers)]
    rows += _token_rows(figures["tokens_per_layer"], T)
    rows.append(("skew", _spread(figures["skew"], name)))
    if T > 1:
        rows.append(("skew in one window", _spread(figures["skew_in_one_window"], name)))
        rows.append(("drift", _spread(figures["drift"], name)))
        rows.append(("drift by chance", _spread(figures["drift_by_chance"], name)))
    return rows


def inspect_loads(trace: RawTrace, source: str, format: str) -> Facts:
    """Read loads once, window by window, and say what they are.

    Parameters
    ----------
    trace : RawTrace
    source, format : str
        Where they are, and in which format.

    Raises
    ------
    ValueError
        If a number is not finite and >= 0.
    """
    scan = scan_loads(trace)
    T, L, E = scan.shape
    figures = _figures(scan)
    odd = odd_in_loads(scan, layer_name(trace.layers))
    title = (
        f"{Path(source).name}: loads ({format}), {counted(T, 'window')}, {counted(L, 'layer')}, "
        f"{counted(E, 'expert')}"
    )
    plain = {
        "kind": "loads",
        "source": source,
        "format": format,
        "num_windows": T,
        "num_layers": L,
        "num_experts": E,
        "dtype": scan.dtype,
        "layers": layers_to_plain(trace.layers),
        **figures,
        "odd": odd,
        "notes": list(trace.notes),
    }
    lines = _LINES if T > 1 else _LINES[:1]
    return Facts(title, _rows(scan, trace.layers, figures), odd, lines, plain)
