"""From what was parsed to the library's nouns: loads, placements, clusters, costs."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenload.cli.options import both
from evenload.cli.output import say_notes, say_phases

if TYPE_CHECKING:
    from evenload.checkpoint import ExpertOrder
    from evenload.cluster import Cluster
    from evenload.cost import CostModel
    from evenload.io import LoadFile, PlacementFile
    from evenload.layers import ModelLayers
    from evenload.placement import Placement
    from evenload.trace import Trace


def cost_of(args: Namespace, num_layers: int, num_experts: int) -> CostModel:
    """Return the costs that `options.PRICES` tell for a load of that shape, else a `ValueError`."""
    from evenload.cost import CostModel, hardware_names, model_of

    numbers: dict[str, Any] = {}
    for text in args.cost or []:
        name, _, value = text.partition("=")
        try:
            numbers[name] = float(value)
        except ValueError:
            raise ValueError(f"--cost {text}: no number; write it as overlap=0.9") from None
    experts = {"tokens_per_second", "expert_bytes"}
    links = {"bandwidth_in_node", "bandwidth_between_nodes"}
    own = experts <= set(numbers)
    if own and links <= set(numbers) and args.hardware is None and args.model is None:
        return CostModel(**numbers)
    if args.hardware is None:
        raise ValueError(
            f"seconds need --hardware; use one of: {', '.join(hardware_names())}, or --cost for "
            "all of its numbers"
        )
    # With experts of one's own whatever model is named gives no number.
    model = args.model or ("deepseek-v3" if own else model_of(num_layers, num_experts))
    cost = CostModel.preset(args.hardware, model, **numbers)
    cost.check_shape(num_layers, num_experts)
    return cost


def by_phase(option: str, text: str, number: Callable[[str], Any]) -> dict[str, Any]:
    """Return numbers by phase, as ``prefill=1,decode=2`` tells them."""
    found = {}
    for part in text.split(","):
        name, _, told = part.partition("=")
        try:
            found[name] = number(told)
        except ValueError:
            raise ValueError(
                f"{option} {text}: {part!r} is not a phase with its number; use e.g. "
                "prefill=1,decode=2"
            ) from None
    return found


def batches_of(args: Namespace, num_layers: int, num_experts: int) -> dict[str, Any]:
    """Return what `options.BATCHES` tell for a load of that shape, for `Problem.build`."""
    from evenload.cost import MODELS, ExpertTime, check_model_shape, hardware_names, model_of

    hardware = getattr(args, "hardware", None)
    told, batch = str(args.expert_time or hardware or ""), args.tokens_per_batch
    if batch is not None:
        if batch.lstrip("-").isdecimal() and batch.isascii():
            batch = int(batch)
        elif "=" in batch:
            batch = by_phase("--tokens-per-batch", batch, int)
        else:
            raise ValueError(
                f"--tokens-per-batch {batch} is not a whole number; use e.g. 64, or one for each "
                "phase: prefill=8192,decode=64"
            )
    both(args.expert_time, batch, "--expert-time is for batches of --tokens-per-batch")
    both(args.top_k, batch, "--top-k is of the tokens of --tokens-per-batch")
    if batch is None:
        return {}
    model, curve = args.model, None
    if model is not None:
        check_model_shape(model, num_layers, num_experts)
    if args.dispatch not in ("one", ["one"]):
        both(batch, told or None, "--tokens-per-batch is for seconds of --expert-time")
    if told in hardware_names():
        model = model or model_of(num_layers, num_experts)
        curve = ExpertTime.preset(told, model)
    elif told:
        curve = ExpertTime.named(told)
    k = args.top_k
    if k is None:
        k = MODELS[model or model_of(num_layers, num_experts)].top_k
    if curve is not None:
        say_notes([f"times of experts: {curve.source}"])
    return {"expert_time": curve, "tokens_per_batch": batch, "top_k": k}


def model_named(args: Namespace, num_layers: int, num_experts: int) -> str | None:
    """Return the model that --model names, or of that shape where only --hardware is named."""
    from evenload.cost import model_of

    if args.model is None and args.hardware is not None:
        return model_of(num_layers, num_experts)
    return None if args.model is None else str(args.model)


def effort_of(text: str) -> str | int:
    """Return an effort: the name of a level, or a number of steps."""
    return int(text) if text.isascii() and text.isdigit() else text


def reading(args: Namespace) -> AbstractContextManager[None]:
    """Let the command read what --max-bytes allows, where it has that option."""
    most = getattr(args, "max_bytes", None)
    if most is None:
        return nullcontext()
    from evenload.io import max_bytes

    return max_bytes(most)


def layout_of(args: Namespace) -> dict[str, Any]:
    """Return what `options.LAYOUT` says, as arguments of the functions that read loads."""
    return {"layout": vars(args)["as"], "key": args.key, "window_tokens": args.window_tokens}


def open_loads(args: Namespace) -> LoadFile:
    """Read LOADS and tell on stderr what had to be assumed."""
    from evenload.io import read_load

    how = {"num_experts": args.experts, "format": args.format, "phase": args.phase}
    file = read_load(args.loads, args.window, **how, **layout_of(args))
    say_notes(file.notes)
    for order in orders_of(args):
        load = order.renumbered(file.load, file.layers)
        trace = None if file.trace is None else order.renumbered_trace(file.trace)
        phases = {name: order.renumbered(part, file.layers) for name, part in file.phases.items()}
        file = replace(file, load=load, trace=trace, phases=phases)
    return file


def orders_of(args: Namespace) -> list[ExpertOrder]:
    """Return the orders that bring loads to the numbers that `options.ORDER` asks for."""
    given = getattr(args, "from_order", None), getattr(args, "to_order", None)
    if given == (None, None):
        return []
    from evenload.checkpoint import read_order

    back, there = (None if path is None else read_order(path) for path in given)
    return [order for order in (back and back.inverse, there) if order is not None]


def open_trace(path: Path, args: Namespace, *, apart: bool = False) -> Trace:
    """Open a trace and tell on stderr what had to be assumed; not if phases are kept `apart`."""
    from evenload.io import read_trace

    how = {"num_experts": args.experts, "format": args.format, "phase": args.phase}
    trace = read_trace(path, **how, **layout_of(args))
    say_notes(trace.notes)
    say_phases([] if apart else trace.phases)
    return trace


def of_phase(found: Trace | PlacementFile, args: Namespace) -> Trace | PlacementFile:
    """Return the loads of the phase that --phase says, if it says one."""
    from evenload.io import PlacementFile

    if args.phase is None:
        return found
    if isinstance(found, PlacementFile):
        raise ValueError("--phase takes loads of one phase, and this is a placement; leave it out")
    return found.phase(args.phase)


def phases_of(trace: Trace) -> Trace | dict[str, Trace]:
    """Return the trace of each phase, by its name, where there are several."""
    if len(trace.phases) <= 1:
        return trace
    return {name: trace.phase(name) for name in trace.phases}


def open_placement(
    option: str, args: Namespace, num_experts: int, layers: ModelLayers | None
) -> Placement | None:
    """Read the file that an option gives, in the format that a second one names; None without it.

    GPUs, nodes and experts are for a file that does not say them, as those of engines; one that
    does may be of other GPUs.
    """
    from evenload.io import read_placement_file

    path, form = getattr(args, option), getattr(args, f"{option}_format")
    both(form, path, f"--{option}-format is of --{option}")
    if path is None:
        return None
    shape = {"num_gpus": args.gpus, "num_nodes": args.nodes, "num_experts": num_experts}
    file = read_placement_file(path, **shape, agree=False, layers=layers, format=form)
    say_notes(file.notes)
    return file.placement


def cluster_of(args: Namespace, slots: int | None, num_experts: int, **how: Any) -> Cluster:
    """Return the cluster; without `slots`, as few per GPU as hold every expert once."""
    from evenload.cluster import Cluster

    if slots is not None:
        return Cluster(args.gpus, args.nodes, num_slots=slots, **how)
    living = args.gpus if how.get("alive") is None else sum(how["alive"])
    smallest = Cluster.smallest_for(num_experts, max(living, 1))
    cluster = Cluster(args.gpus, args.nodes, smallest.slots_per_gpu, **how)
    more = cluster.num_slots + cluster.num_gpus
    say_notes([
        f"no --slots: {cluster.num_slots} for {num_experts} experts; one more on each GPU for "
        f"replicas of busy experts would be --slots {more}"
    ])  # fmt: skip
    return cluster


def extras(args: Namespace, cluster: Cluster) -> dict[str, Any]:
    """Return what a summary may tell beyond balance, as arguments of `report.compare`.

    Routed experts are read where the file has them and they may be on several nodes, but not for
    one window or phase: a file does not say which of its tokens are in it. Nor are they where
    experts get other numbers.
    """
    from evenload.io import read_topk

    several = cluster.num_nodes > 1 and args.window is None and args.phase is None
    several = several and not orders_of(args)
    topk = read_topk(args.loads, format=args.format) if several else None
    return {"num_groups": args.groups, "topk": topk, "split": args.split}


def sharing(args: Namespace) -> dict[str, Any]:
    """Return how tokens are shared among replicas, as arguments of `solve` and `Problem.build`."""
    share = {} if args.live_share is None else {"live_share": args.live_share}
    if getattr(args, "copy_slack", None) is not None:
        share["copy_slack"] = args.copy_slack
    return {"dispatch": args.dispatch} | share


def sharing_words(args: Namespace) -> str:
    """Say it for a title."""
    share = args.live_share
    dispatch = str(args.dispatch)
    return dispatch if share in (None, 1.0) else f"{dispatch} for {share:g} of the time, else even"
