"""Prove that each expert that vLLM moved has the bytes it had before, where `verify` asks for it.

Checksums are taken before and after a layer moves. Ranks hand them in over the store of vLLM's
expert-parallel group, and each compares all slots. A thread waits for the device and for the other
ranks; the engine waits for neither.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from importlib import import_module
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.checksum import checksums
from evenload.plugins.checksum import differences, exchange

MODULE = "vllm.distributed.eplb.eplb_state"
EXPECTED = {  # of vLLM 0.33.0: one moves all layers, the other takes over one that has arrived
    "rearrange_expert_weights_inplace":
        "old_global_expert_indices new_global_expert_indices expert_weights expert_buffer ep_group "
        "communicator is_profile rank_mapping",
    "_move_to_workspace": "model_state ep_rank",
}  # fmt: skip
FEW = 4  # layers of a rebalance that are looked at, unless all are
MOST_NAMED = 8  # slots in one text
PART = 16  # bytes of a digest
logger = logging.getLogger("vllm.evenload")


@dataclass
class Look:
    """One layer of this rank; what is on the CPU may be on its way there."""

    layer: int
    weights: Any  # tensors that vLLM moves [K, ...]
    maps: tuple[Any, Any]  # expert in each slot of all ranks before and after, on the CPU [S]
    before: Any  # checksum of each slot of this rank, on the CPU [K]
    after: Any = None


def _to_cpu(tensor: Any) -> Any:
    """Copy in the order of the device's work, without waiting for it."""
    return tensor.clone().to("cpu", non_blocking=True)


@dataclass
class Verifier:
    """Looks at the moves of this rank. It never raises; each reason why it failed is told once."""

    all_layers: bool = False
    on_mismatch: Callable[[str], None] = lambda text: None  # on every rank, from a thread
    wait: float = 300.0  # seconds for the other ranks
    _open: list[Look] = field(default_factory=list)  # of the call that runs
    _done: list[Look] = field(default_factory=list)  # of this rebalance
    _group: Any = None
    _round: int = 0
    _told: set[str] = field(default_factory=set)
    _thread: Thread | None = None

    def around(self, look: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
        """Return vLLM's function with a look before and after it."""

        @wraps(original)
        def looked_at(*args: Any, **kwargs: Any) -> Any:
            self._open = []
            ends = self._quietly(look, *args, **kwargs)
            result = original(*args, **kwargs)
            if ends is not None:
                self._quietly(self._after, ends)
            return result

        looked_at.verifier = self  # type: ignore[attr-defined]
        return looked_at

    def before_all(
        self, old: Any, new: Any, expert_weights: Any, expert_buffer: Any, ep_group: Any,
        communicator: Any, is_profile: bool = False, rank_mapping: Any = None,
    ) -> bool | None:  # fmt: skip
        """Look at layers before all move, and say whether the rebalance ends with this call."""
        if is_profile:
            return None
        self._begin()
        if rank_mapping is not None:
            raise ValueError("ranks come or go in this rebalance")
        for layer in self._layers(len(expert_weights)):
            self._look(layer, expert_weights[layer], old[layer], new[layer])
        return True

    def before_layer(self, model_state: Any, ep_rank: int) -> bool:
        """Look at a layer before it moves, and say whether the rebalance ends with it."""
        model, result = model_state.model, model_state.pending_result
        layer, last = int(result.layer_idx), int(model.num_moe_layers) - 1
        if layer == 0:
            self._begin()
        if layer in self._layers(last + 1):
            old = model_state.physical_to_logical_map[layer]
            new = result.new_physical_to_logical_map
            self._look(layer, model.expert_weights[layer], old, new)
        return layer == last

    def _begin(self) -> None:
        """Begin the next rebalance; that before it may have stopped half-way, on all ranks."""
        self._hand_in()
        group = import_module("vllm.distributed.parallel_state").get_ep_group().cpu_group
        self._round = self._round + 1 if group is self._group else 1
        self._group = group

    def _layers(self, num_layers: int) -> range:
        """Return the layers of this rebalance, the same on all ranks; each has its turn."""
        stride = 1 if self.all_layers else -(-num_layers // FEW)
        return range(self._round % stride, num_layers, stride)

    def _look(self, layer: int, weights: Any, old: Any, new: Any) -> None:
        maps, before = (_to_cpu(old), _to_cpu(new)), _to_cpu(checksums(weights))
        self._open.append(Look(layer, weights, maps, before))

    def _after(self, ends: bool) -> None:
        for look in self._open:
            look.after, look.weights = _to_cpu(checksums(look.weights)), None
        self._done += self._open
        if ends:
            self._hand_in()

    def _hand_in(self) -> None:
        import torch

        looks, self._done = self._done, []
        if not looks:
            return
        arrived = None
        if torch.accelerator.is_available():
            arrived = torch.Event()
            arrived.record()
        compare = partial(self._compare, looks, arrived, self._group, self._round)
        self._thread = Thread(target=self._quietly, args=(compare,), daemon=True)
        self._thread.start()

    def _compare(self, looks: Sequence[Look], arrived: Any, group: Any, number: int) -> None:
        if arrived is not None:
            arrived.synchronize()
        layers = [look.layer for look in looks]
        maps = np.array([[half.numpy() for half in look.maps] for look in looks])
        sums = np.array([[look.before.numpy(), look.after.numpy()] for look in looks])
        rank, saw, read = group.rank(), _digest(np.array(layers)), _digest(maps)
        parts = exchange(group, number, saw + read + sums.tobytes(), self.wait)
        others = [other for other, part in enumerate(parts) if part[:PART] != saw]
        if others:
            raise RuntimeError(f"ranks {others} looked at other layers than rank {rank}: {layers}")
        others = [other for other, part in enumerate(parts) if part[PART : 2 * PART] != read]
        if others:
            text = f"layers {layers}: ranks {others} have other maps than rank {rank}"
            self._mismatch([text], True)
            return
        tables = [np.frombuffer(part[2 * PART :], np.int64).reshape(sums.shape) for part in parts]
        mixed, wrong = differences(layers, maps, np.concatenate(tables, axis=2), sums.shape[2])
        if mixed and rank == 0:
            text = f"replicas differed before any move of this rebalance: {_few(mixed)}"
            self._tell("replicas", text)
        if wrong:
            self._mismatch([text for _, text in wrong], rank in {0, *(where for where, _ in wrong)})
        elif rank == 0:
            logger.info("evenload: experts have the same bytes after the move, layers %s", layers)

    def _mismatch(self, texts: list[str], loud: bool) -> None:
        text = f"a rebalance did not keep the experts' weights: {_few(texts)}"
        logger.log(logging.ERROR if loud else logging.DEBUG, "evenload: %s", text)
        self.on_mismatch(text)

    def _quietly(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return step(*args, **kwargs)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            self._tell(why, f"not verified, because {why}")
            return None

    def _tell(self, once: str, text: str) -> None:
        if once not in self._told:
            self._told.add(once)
            logger.error("evenload: %s", text)


def _digest(numbers: NDArray[Any]) -> bytes:
    return hashlib.sha256(numbers.astype("<i8").tobytes()).digest()[:PART]


def _few(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - MOST_NAMED} more" if len(texts) > MOST_NAMED else ""
    return "; ".join(texts[:MOST_NAMED]) + more


def install(all_layers: bool, on_mismatch: Callable[[str], None] | None = None) -> Verifier | None:
    """Look at vLLM's moves from now on; None, and an error in the log, where that cannot be.

    `on_mismatch` gets the text of each mismatch. Called again it returns the same `Verifier`.
    """
    try:
        state = import_module(MODULE)
        functions = [getattr(state, name) for name in EXPECTED]
        _refuse_others(functions)
    except Exception as error:
        logger.error(
            "evenload: moves are not verified, because %s: %s", type(error).__name__, error
        )
        return None
    verifier: Verifier | None = getattr(functions[0], "verifier", None)
    if verifier is None:
        verifier = Verifier(all_layers)
        looks: tuple[Callable[..., Any], ...] = (verifier.before_all, verifier.before_layer)
        for function, look in zip(functions, looks, strict=True):
            setattr(state, function.__name__, verifier.around(look, function))
    if on_mismatch is not None:
        verifier.on_mismatch = on_mismatch
    return verifier


def _refuse_others(functions: Iterable[Callable[..., Any]]) -> None:
    for function, (name, wanted) in zip(functions, EXPECTED.items(), strict=True):
        found = " ".join(inspect.signature(function).parameters)
        if found != wanted:
            raise TypeError(f"{name} takes ({found}); use a vLLM where it takes ({wanted})")
