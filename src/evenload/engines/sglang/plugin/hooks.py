"""What SGLang calls: light to import, and done at once for any name that is not evenload's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from evenload.engines.common.options import is_asked_for

HIERARCHICAL = {"evenload": False, "evenload_hierarchical": True}
ELASTIC = {"elasticity_aware": False, "elasticity_aware_hierarchical": True}


@dataclass(frozen=True)
class Algorithm:
    """Stands for one of evenload's names where SGLang has a member of its enum.

    Parameters
    ----------
    name : str
    hierarchical : bool
        Whether groups are to stay on one node.
    instead : object
        SGLang's own member for a rank that cannot plan.
    """

    name: str
    hierarchical: bool
    instead: Any


def compute_algorithm(
    original: Callable[..., Any], raw_algorithm: str, *args: Any, **kwargs: Any
) -> Any:
    """Look up a name of an algorithm: evenload's, or SGLang's own."""
    if raw_algorithm in HIERARCHICAL:
        instead = original("auto", *args, **kwargs)
        return Algorithm(raw_algorithm, HIERARCHICAL[raw_algorithm], instead)
    own = original(raw_algorithm, *args, **kwargs)
    if raw_algorithm in ELASTIC and is_asked_for("sglang_elastic"):
        return Algorithm(raw_algorithm, ELASTIC[raw_algorithm], own)
    return own


def rebalance_experts(
    original: Callable[..., Any],
    tokens_per_expert: Any,
    num_physical_experts: int,
    num_local_physical_experts: int,
    num_groups: int | None,
    num_nodes: int,
    algorithm: Any,
) -> Any:
    """Plan by the algorithm that `compute_algorithm` returned."""

    def own(which: Any) -> Any:
        return original(
            tokens_per_expert=tokens_per_expert,
            num_physical_experts=num_physical_experts,
            num_local_physical_experts=num_local_physical_experts,
            num_groups=num_groups,
            num_nodes=num_nodes,
            algorithm=which,
        )

    if not isinstance(algorithm, Algorithm):
        return own(algorithm)
    from evenload.engines.sglang.plugin.rebalance import Call, rebalance

    groups = num_groups if algorithm.hierarchical and num_groups else 1
    call = Call(tokens_per_expert, num_physical_experts, num_local_physical_experts, num_nodes,
                groups, lambda: own(algorithm.instead))  # fmt: skip
    return rebalance(call)


def before_first_location(*_args: Any, **_kwargs: Any) -> None:
    """Compile and test before a model is loaded, where this server will plan by evenload."""
    from sglang.srt.runtime_context import get_exec

    moe = get_exec().moe
    name = moe.eplb_algorithm
    ours = name in HIERARCHICAL or (name in ELASTIC and is_asked_for("sglang_elastic"))
    if ours and (moe.enable_eplb or moe.init_expert_location != "trivial"):
        from evenload.engines.sglang.plugin.ready import readiness

        readiness()
