"""evenload inside SGLang: ``--eplb-algorithm evenload`` and ``evenload_hierarchical``.

SGLang loads `register` in each of its processes through the entry point group
``sglang.srt.plugins``. It hooks three functions and imports nothing else, so a server that asks for
another algorithm runs as without it.

**Names.** ``evenload`` plans without groups; ``evenload_hierarchical`` keeps each group of experts
on one node, where the groups divide over the nodes. SGLang looks a name up at the first rebalance
only, and refuses none before that. Elastic expert parallelism does refuse all but
``elasticity_aware`` and ``elasticity_aware_hierarchical``; with ``EVENLOAD_SGLANG_ELASTIC=1`` those
two are planned by evenload, around the ranks that are gone.

**When it compiles.** Before a model is loaded, SGLang's ranks make their first expert location;
those that will rebalance by evenload compile and test themselves there.

**Who plans.** Every rank, on loads that SGLang has added up over all of them, and SGLang compares
nothing. (Only after an elastic scale-up it plans on rank 0 alone, and broadcasts.) A plan follows
from the loads and the map that runs, which all ranks share, and from evenload's release and
options, which they should. So that a rank with other options, or one whose self-test failed, does
no harm, the ranks compare digests of their maps before they use them, and where two differ all
keep the map that runs. Elastic ranks come and go at different times, so there is no moment at which
all compare: there a rank whose self-test fails does not start.

**Steps.** SGLang hands over the counts of up to 1000 passes. They become up to 16 windows, and a
plan has to hold under each, whatever their order: the buffer is circular, and its tensor does not
say where it begins. On recorded traffic this was better than planning for the sum, and as good as a
forecast from windows in order, which loses where the buffer begins in its middle.

**Dense layers** have rows without load: they keep what they have, as all layers do before there is
traffic. Slots of a **rank that is gone** hold expert 0, as SGLang has it; no replica is counted
there.
"""

from __future__ import annotations


def register() -> None:
    """Register the hooks; SGLang's plug-in loader calls this."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    from evenload.engines.sglang.plugin import hooks

    eplb = "sglang.srt.eplb"
    for target, hook, kind in (
        (f"{eplb}.eplb_algorithms.compute_algorithm", hooks.compute_algorithm, HookType.AROUND),
        (f"{eplb}.eplb_algorithms.rebalance_experts", hooks.rebalance_experts, HookType.AROUND),
        (
            f"{eplb}.expert_location.compute_initial_expert_location_metadata",
            hooks.before_first_location,
            HookType.BEFORE,
        ),
    ):
        HookRegistry.register(target, hook, kind)
