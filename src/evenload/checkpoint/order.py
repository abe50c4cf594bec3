"""The order that a checkpoint's experts were given, as a file beside the model keeps it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import evenload
from evenload.arrays import Int, read_only
from evenload.io.base import PlacementFile, checking, model_layers
from evenload.io.files import some
from evenload.io.json import MOST_TEXT, check_ours, lines_of, parse_json
from evenload.io.placements import map_of
from evenload.layers import ModelLayers
from evenload.placement import Placement
from evenload.trace import Trace

ORDER_FILE = "evenload_order.json"
NAME = "evenload.order"
_VERSION = 1
_TEXTS = ("model_type", "source_digest", "load_digest")


@dataclass(frozen=True, eq=False)
class ExpertOrder:
    """Which expert of the original model has each number in the reordered one.

    Examples
    --------
    >>> order = ExpertOrder([[2, 0, 1]], ModelLayers([3]))
    >>> order.renumbered(np.array([[10, 20, 30]]), order.layers)  # loads of the original model
    array([[30, 10, 20]])
    >>> order.inverse.renumbered(np.array([[30, 10, 20]]), order.layers)
    array([[10, 20, 30]])
    """

    experts: Int  #: [L, E], in the numbers of the original model; read-only
    layers: ModelLayers  #: the model's numbers of the L layers
    num_drafts: int = 0  #: layers at the end that draft tokens (MTP), of which loads may have none
    num_gpus: int | None = None  #: that the order was planned for
    model_type: str | None = None
    source_digest: str | None = None  #: of the original model, see `Checkpoint.digest`
    load_digest: str | None = None  #: of the loads that it was planned for

    def __post_init__(self) -> None:
        experts = np.array(self.experts)
        if experts.ndim != 2 or experts.size == 0 or experts.dtype.kind not in "iu":
            raise ValueError(
                f"experts have shape {experts.shape} and dtype {experts.dtype}; use whole numbers "
                "[layers, experts]"
            )
        if len(experts) != len(self.layers):
            raise ValueError(
                f"layers names {len(self.layers)} layers, and experts has {len(experts)}; name "
                f"{len(experts)}"
            )
        wrong = np.flatnonzero((np.sort(experts) != np.arange(experts.shape[1])).any(axis=1))
        if wrong.size:
            raise ValueError(
                f"experts of layer {self.layers.ids[wrong[0]]} are not 0 to "
                f"{experts.shape[1] - 1}, each once; use a permutation"
            )
        object.__setattr__(self, "experts", read_only(experts.astype(np.int64)))

    @property
    def num_experts(self) -> int:
        """Experts E of a layer."""
        return int(self.experts.shape[1])

    @property
    def changes(self) -> bool:
        """Whether any expert gets another number."""
        return bool((self.experts != np.arange(self.num_experts)).any())

    @property
    def inverse(self) -> ExpertOrder:
        """The way back: which expert of the reordered model has each number in the original."""
        return replace(self, experts=np.argsort(self.experts, axis=1))

    def then(self, other: ExpertOrder) -> ExpertOrder:
        """Return the order of a model that is reordered once more, in the first numbers."""
        if other.layers.ids != self.layers.ids or other.num_experts != self.num_experts:
            raise ValueError(
                "two orders are of different layers or experts; use those of one model"
            )
        return replace(other, experts=np.take_along_axis(self.experts, other.experts, axis=1),
                       source_digest=self.source_digest)  # fmt: skip

    def rows_of(self, num_layers: int, layers: ModelLayers | None, num_experts: int) -> Int:
        """Return the order of the layers that loads or a placement have, [num_layers, E].

        Layers that the order does not name keep theirs: dense ones, and those of a draft model.
        """
        if num_experts != self.num_experts:
            raise ValueError(
                f"the order is of {self.num_experts} experts, and there are {num_experts}; use the "
                f"{ORDER_FILE} of that model"
            )
        if layers is None:
            if num_layers not in (len(self.layers), len(self.layers) - self.num_drafts):
                raise ValueError(
                    f"the order is of {len(self.layers)} layers (model layers "
                    f"{some(self.layers.ids, 5)}), and there are {num_layers}; use the "
                    f"{ORDER_FILE} of that model"
                )
            return self.experts[:num_layers]
        rows = np.tile(np.arange(num_experts), (num_layers, 1))
        known = {layer: row for row, layer in enumerate(self.layers.ids)}
        for row, layer in enumerate(layers.ids):
            if layer in known:
                rows[row] = self.experts[known[layer]]
        return rows

    def renumbered(self, load: NDArray[Any], layers: ModelLayers | None) -> NDArray[Any]:
        """Return loads [..., L, E] of the original model with the reordered model's numbers."""
        rows = self.rows_of(load.shape[-2], layers, load.shape[-1])
        return np.take_along_axis(load, rows.reshape((1,) * (load.ndim - 2) + rows.shape), axis=-1)

    def renumbered_trace(self, trace: Trace) -> Trace:
        """Return a trace of the original model with the reordered model's numbers."""
        self.rows_of(trace.num_layers, trace.layers, trace.num_experts)
        about: dict[str, Any] = {"source": trace.source, "notes": trace.notes}
        about |= {"layers": trace.layers, "over_time": trace.over_time}
        phases = {
            name: Trace.of(_Renumbered(part, self, trace.layers), layers=trace.layers)
            for name, part in trace.phases.items()
        }
        return Trace.of(_Renumbered(trace, self, trace.layers), phases=phases, **about)

    def renumbered_placement(self, file: PlacementFile) -> PlacementFile:
        """Return a placement of the original model's experts with the reordered one's numbers."""
        old = file.placement
        rows = self.rows_of(old.num_layers, file.layers, old.num_experts)
        numbers, held = np.argsort(rows, axis=1), old.rows
        found = np.take_along_axis(numbers, np.maximum(held, 0), axis=1)
        made = Placement(np.where(held < 0, held, found), old.cluster, old.num_experts)
        return replace(file, placement=made, load_digest=None)

    def to_json(self) -> str:
        """Return the text of `ORDER_FILE`, with one line a layer."""
        about = {
            "format": NAME, "version": _VERSION, "evenload": evenload.__version__,
            **{key: getattr(self, key) for key in _TEXTS},
            "num_gpus": self.num_gpus, "num_drafts": self.num_drafts,
        }  # fmt: skip
        ids = json.dumps(list(self.layers.ids))
        head = json.dumps(about, indent=2).removesuffix("\n}")
        rows = lines_of(self.experts, "    ")
        return f'{head},\n  "layer_ids": {ids},\n  "experts": [\n{rows}\n  ]\n}}\n'


class _Renumbered:
    """Windows of a trace with other numbers for the experts."""

    def __init__(self, trace: Trace, order: ExpertOrder, layers: ModelLayers | None) -> None:
        self._trace, self._order, self._layers = trace, order, layers
        self.shape = trace.shape

    def read(self, number: int) -> NDArray[Any]:
        return self._order.renumbered(self._trace.read(number), self._layers)


def is_order(path: Path) -> bool:
    """Whether there is an order's file at `path`, or in the folder there."""
    if path.is_dir():
        return (path / ORDER_FILE).is_file()
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    with path.open("rb") as stream:
        return f'"{NAME}"'.encode() in stream.read(256)


def read_order(path: str | os.PathLike[str]) -> ExpertOrder:
    """Read an order from its file, or from the folder of a reordered checkpoint.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileFormatError
        If the file is damaged or holds no order.
    """
    file = Path(path)
    file = file / ORDER_FILE if file.is_dir() else file
    with checking(str(file)):
        order: ExpertOrder = _order_of(parse_json(file, MOST_TEXT))
    return order


def _order_of(held: Any) -> ExpertOrder:
    """Return the order that a file holds, which may be anything; `ValueError` if it is none."""
    check_ours(held, NAME, _VERSION, "an order of experts")
    for key in _TEXTS:
        if not isinstance(held.get(key), str | None):
            raise ValueError(f"{key} is {held[key]!r}; use a text, or leave it out")
    ids, gpus, drafts = (held.get(key) for key in ("layer_ids", "num_gpus", "num_drafts"))
    if not isinstance(ids, list):
        raise ValueError(f"layer_ids is {ids!r}; use a number for each layer")
    for key, number in (("num_gpus", gpus), ("num_drafts", drafts)):
        if not (number is None or (type(number) is int and number >= 0)):
            raise ValueError(f"{key} is {number!r}; use a whole number, or leave it out")
    experts = map_of(held.get("experts"), "experts")
    about = {key: held.get(key) for key in _TEXTS}
    return ExpertOrder(experts, model_layers(ids, None), drafts or 0, gpus, **about)
