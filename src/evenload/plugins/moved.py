"""Which model a rebalance is of, and how many bytes it moves, as the engine itself makes it known.

An engine's policy sees loads and maps, but neither weights nor a name. vLLM is asked when a model
joins its `EplbState`, SGLang where it hands the weights to its updater. Where neither tells,
nothing is counted. None of this ever raises: a rebalance does not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any

from evenload.metrics import record_bytes

if TYPE_CHECKING:
    from evenload.plugins.plan import Int


def expert_bytes(weights: Sequence[Any]) -> int:
    """Return the bytes of one expert of a layer, whose tensors are [K, ...] of K slots."""
    return sum(tensor[0].numel() * tensor.element_size() for tensor in weights)


def moved_bytes(old: Any, new: Any, num_ranks: int, sizes: Sequence[int]) -> int:
    """Return the bytes of the experts that are new to their rank.

    Parameters
    ----------
    old, new : int64 array_like, [L, S'] and [L, S]
        The expert in each slot; -1, and slots beyond S, hold nothing.
    num_ranks : int
        Of `new`.
    sizes : sequence of int, [L]
        Bytes of one expert of each layer.
    """
    import numpy as np

    from evenload.core.evaluate import count_arrivals

    after = np.ascontiguousarray(new, np.int64)
    before, width = np.full_like(after, -1), min(np.shape(old)[1], after.shape[1])
    before[:, :width] = np.asarray(old)[:, :width]
    first = np.arange(num_ranks + 1) * (after.shape[1] // num_ranks)
    experts = 1 + int(max(before.max(), after.max()))
    count = np.empty(len(after), np.int64)
    count_arrivals(before, first, after, first, experts, count)
    return sum(int(n) * size for n, size in zip(count, sizes, strict=True))


# ---- vLLM: a model is known from the moment at which it joins ------------------------------------


@dataclass
class Model:
    """A model that vLLM balances."""

    name: str
    sizes: list[int]  # bytes of one expert of each layer
    profiled: bool = field(default=False, compare=False)

    def moved(self, engine: str, old: Any, new: Int, num_ranks: int, loaded: bool) -> None:
        """Count what a new map moves, but for that of vLLM's profiling run, which moves nothing."""
        profiling = not (loaded or self.profiled)
        self.profiled = True
        if not profiling:
            record_bytes(engine, lambda: moved_bytes(old, new, num_ranks, self.sizes), self.name)


_known: dict[tuple[int, int], Model | None] = {}


def model_of(num_layers: int, num_experts: int) -> Model | None:
    """Return the one model of so many MoE layers and logical experts; None for several, or none."""
    return _known.get((num_layers, num_experts))


def watch_vllm() -> None:
    """Note each model that joins vLLM's `EplbState` from now on, for `model_of`.

    Where this release has no such class, or a model there has no weights, nothing is known.
    """
    try:
        state: Any = import_module("vllm.distributed.eplb.eplb_state").EplbState
        original = state.add_model
    except (ImportError, AttributeError):
        return
    if not getattr(original, "is_watched", False):
        state.add_model = _watched(original)


def _watched(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def add_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        for model_state in getattr(self, "model_states", {}).values():
            _note(model_state)
        return result

    add_model.is_watched = True  # type: ignore[attr-defined]
    return add_model


def _note(model_state: Any) -> None:
    try:
        of, model = model_state.model, None
        shape = (int(of.num_moe_layers), int(of.num_logical_experts))
        model = Model(str(model_state.model_name), [expert_bytes(w) for w in of.expert_weights])
        one = len(model.sizes) == shape[0] and _known.get(shape, model) == model
    except Exception:
        return
    if not one:
        _known[shape] = None  # which of them a load is of, nobody can tell
    else:
        _known.setdefault(shape, model)


# ---- SGLang: its updater gets the weights --------------------------------------------------------


def sglang_model() -> str:
    """Return the name that SGLang serves its model by, as in its own metrics; empty if unknown."""
    try:
        from sglang.srt.runtime_context import get_serving

        return str(get_serving().served_model_name or "")
    except Exception:
        return ""


def before_update(
    self: Any, routed_experts_weights_of_layer: Any, new_expert_location_metadata: Any,
    update_layer_ids: Sequence[int], nnodes: int, rank: int, *_args: Any, **_kwargs: Any,
) -> None:  # fmt: skip
    """Count, on the first rank of a group, what ``ExpertLocationUpdater.update`` is about to move.

    Slots of elastic ranks that are gone get nothing.
    """
    from evenload.plugins.sglang import living_ranks, will_plan

    if rank == 0 and will_plan():
        new, weights = new_expert_location_metadata, routed_experts_weights_of_layer
        layers = list(update_layer_ids)

        def number() -> int:
            import numpy as np
            from sglang.srt.eplb.expert_location import get_global_expert_location_metadata

            old = get_global_expert_location_metadata().physical_to_logical_map_cpu[layers]
            placed = new.physical_to_logical_map_cpu[layers].numpy().copy()
            ranks = placed.shape[1] // new.num_local_physical_experts
            alive = living_ranks(ranks) or (True,) * ranks
            placed[:, ~np.repeat(alive, new.num_local_physical_experts)] = -1
            sizes = [expert_bytes(weights[layer]) for layer in layers]
            return moved_bytes(old.numpy(), placed, ranks, sizes)

        record_bytes("SGLang", number, sglang_model())
