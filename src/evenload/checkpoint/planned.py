"""From loads or a placement to an order of the experts that puts them where they are wanted."""

from __future__ import annotations

from typing import Any

import numpy as np

from evenload.arrays import Float, Int, check_load
from evenload.checkpoint.folder import Checkpoint
from evenload.checkpoint.order import ExpertOrder
from evenload.checks import multiple, positive_int
from evenload.cluster import Cluster, check_groups
from evenload.forecast import is_trace
from evenload.io.base import PlacementFile
from evenload.io.files import some
from evenload.io.placements import for_layers
from evenload.layers import ModelLayers
from evenload.placement import Placement
from evenload.trace import Trace, check_trace

WINDOWS = 16  # of a trace that are planned for, at most


def plan_order(
    load: Any, num_gpus: int, *, num_groups: int = 1, dispatch: str = "even", **options: Any
) -> Placement:
    """Plan a placement that an order of the experts can bring about, without redundancy.

    Parameters
    ----------
    load : array_like, [L, E] or [T, L, E]; or a Trace
        Tokens routed to each expert. A trace is planned for its mean, so that the plan holds under
        its last windows: an order stays for long, and what comes first tells as much as the last.
    num_gpus : int
        GPUs of the expert-parallel group; they share the experts equally.
    num_groups : int, default 1
        Groups that routing is limited to (8 for DeepSeek-V3): they stay together.
    dispatch : {"even", "copy"}, default "even"
        ``"copy"`` plans homes for a balancer that copies experts for every microbatch.
    **options
        As `evenload.solve`.

    Returns
    -------
    Placement
        Each expert once, K = E / G on each GPU in rising order. With groups each GPU has whole
        groups, or only experts of a single one, whose GPUs follow each other.

    Raises
    ------
    ValueError
        If the GPUs cannot share the experts equally, or whole groups; and as `evenload.solve`.

    Examples
    --------
    >>> plan_order([[6, 5, 2, 1]], 2).physical_to_logical
    array([[0, 3, 1, 2]])
    """
    from evenload.planner import solve  # the solvers, which writing a checkpoint does not need

    array = _windows(load)
    L, E = array.shape[-2:]
    gpus, groups = positive_int("num_gpus", num_gpus), check_groups(num_groups, E)
    multiple("num_experts", E, "num_gpus", gpus)
    per_gpu, per_group = E // gpus, E // groups
    if max(per_gpu, per_group) % min(per_gpu, per_group):
        raise ValueError(
            f"num_gpus={gpus} GPUs of {per_gpu} experts would split groups of {per_group}; use a "
            f"num_gpus that divides num_groups={groups}, or a multiple of it"
        )
    how: dict[str, Any] = {"dispatch": dispatch, **options}
    if array.ndim == 3:
        how.setdefault("estimator", "mean")
    cluster = Cluster(gpus, slots_per_gpu=per_gpu)
    if groups == gpus:
        return Placement.trivial(L, E, cluster)  # one group per GPU, whichever it is
    if groups == 1:
        rows = solve(array, cluster, **how).placement.rows
    elif per_group > per_gpu:  # as many nodes as groups, so that each has one
        apart = Cluster(gpus, groups, per_gpu)
        how |= {"num_groups": groups, "topology": "strict"}
        rows = solve(array, apart, **how).placement.rows
    else:
        whole = array.reshape(*array.shape[:-1], groups, per_group).sum(axis=-1)
        few = Cluster(gpus, slots_per_gpu=per_gpu // per_group)
        held = solve(whole, few, **how).placement.rows[:, :, None]
        rows = (held * per_group + np.arange(per_group)).reshape(L, E)
    return Placement(_sorted(rows, gpus), cluster, E)


def _windows(load: Any) -> Float:
    """Return what a plan is made of, [L, E] or [T, L, E]: of a trace so many windows, summed.

    On gpt-oss and V2-Lite from 8 to 24 windows gave the same within the noise; a hundred of a
    thousand tokens each gave three points less where topics change, as `solve` sees the last only.
    """
    if not is_trace(load):
        return check_load(load)[0]
    trace = check_trace(load)
    return np.stack(list(trace.merged(-(-len(trace) // WINDOWS))))


def over_windows(trace: Trace, placement: Placement) -> tuple[float, float]:
    """Return the balancedness of a trace's windows, on average: of experts in order, and placed."""
    trivial = Placement.trivial(trace.num_layers, trace.num_experts, placement.cluster)
    found = [
        [place.balancedness(trace.window(t)).mean() for place in (trivial, placement)]
        for t in range(len(trace))
    ]
    before, after = np.mean(found, axis=0).tolist()
    return before, after


def _sorted(rows: Int, gpus: int) -> Int:
    """Sort the experts of each GPU: their order there means nothing, and so fewest names change."""
    return np.sort(rows.reshape(len(rows), gpus, -1), axis=2).reshape(rows.shape)


def order_of_placement(file: PlacementFile, checkpoint: Checkpoint) -> ExpertOrder:
    """Return the order that brings a placement about, or say why there is none.

    Experts are numbered as in the checkpoint. Layers that draft tokens keep their order where the
    placement has none for them.

    Raises
    ------
    ValueError
        If the placement is of another model, has an expert twice, unequal or dead GPUs, or splits
        groups that routing is limited to.
    """
    placement, model = file.placement, checkpoint.model
    cluster, E = placement.cluster, model.num_experts
    cure = "plan with `evenload reorder --loads`"
    if placement.num_experts != E:
        raise ValueError(
            f"{placement.num_experts} experts per layer are given, and the checkpoint has {E}; use "
            "loads or a placement of this model"
        )
    if not cluster.all_alive:
        raise ValueError(
            f"GPU {cluster.alive.index(False)} of the placement is gone, and experts in order are "
            "for GPUs that all live; plan for the living GPUs alone"
        )
    if placement.num_slots != E:
        raise ValueError(
            f"the placement has {placement.num_slots} slots per layer for {E} experts, and an "
            "order "
            f"has each expert once; plan with --slots {E}, or {cure}"
        )
    if len(set(cluster.slots)) > 1:
        raise ValueError(
            f"the placement has from {min(cluster.slots)} to {max(cluster.slots)} slots on a GPU, "
            f"and engines share experts equally; plan for a number of GPUs that divides {E}"
        )
    file, there = _for_model(file, checkpoint), checkpoint.layers
    rows = _sorted(file.placement.rows, cluster.num_gpus)
    assert file.layers is not None
    _check_groups(rows, model.num_groups, file.layers)
    experts = np.tile(np.arange(E), (len(there), 1))
    experts[: len(rows)] = rows
    layers, drafts = ModelLayers(there), sum(layer in model.drafts for layer in there)
    about = model.model_type, checkpoint.digest, file.load_digest
    return ExpertOrder(experts, layers, drafts, cluster.num_gpus, *about)


def _for_model(file: PlacementFile, checkpoint: Checkpoint) -> PlacementFile:
    """Return the rows of the checkpoint's layers, with those that draft where it has them."""
    model, there = checkpoint.model, checkpoint.layers
    count = file.placement.num_layers
    known = None if file.layers is None else set(file.layers.ids)
    drafts = there[len(model.layers) :]
    if known is None and count not in (len(model.layers), len(there)):
        if count == model.num_layers + len(drafts) or count == model.num_layers:
            file = PlacementFile(file.placement, file.source, layers=ModelLayers(range(count)))
            known = set(range(count))
        else:
            also = f", or {len(there)} with those that draft" if drafts else ""
            raise ValueError(
                f"{count} layers are given, and the checkpoint has experts in "
                f"{len(model.layers)}{also} (model layers {some(there, 5)}); use loads or a "
                "placement of this model"
            )
    with_drafts = set(there) <= known if known is not None else count == len(there)
    return for_layers(file, ModelLayers(there if with_drafts else model.layers))


def _check_groups(rows: Int, groups: int, layers: ModelLayers) -> None:
    """Refuse an order that spreads a group of experts over the places of several."""
    L, E = rows.shape
    of = (rows // (E // groups)).reshape(L, groups, -1)
    split = np.flatnonzero((of != of[:, :, :1]).any(axis=(1, 2)))
    if split.size:
        where = some([layers.ids[int(i)] for i in split], 5)
        raise ValueError(
            f"the placement splits groups that routing is limited to, in {split.size} layers "
            f"(model layers {where}): each {E // groups} places in a row have to hold "
            f"one of the {groups} groups; plan with `evenload reorder --loads`, or `evenload plan "
            f"--groups {groups} --nodes {groups}`"
        )
