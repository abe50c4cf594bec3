"""What commands share: options, inputs that are opened, and what is printed where."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenload.checks import printable

if TYPE_CHECKING:
    from evenload.checkpoint import ExpertOrder
    from evenload.cluster import Cluster
    from evenload.cost import CostModel
    from evenload.io import LoadFile, PlacementFile
    from evenload.layers import ModelLayers
    from evenload.placement import Placement
    from evenload.report.compare import Context, Summary
    from evenload.trace import Trace

# ---- options, as `evenload.cli.parser_of` reads them -------------------------------------------

LOADS = {
    "LOADS": "Tokens routed to each expert: a .npz, .npy, .csv, .json or .parquet file, or what an "
    "engine recorded (a file, a folder, or a pattern in quotes: 'dump/*.pt'); see --format. A .npz "
    "holds `load` [windows, layers, experts] or [layers, experts], or `topk` [tokens, layers, k]; "
    "a .csv has one row per layer and one column per expert, or the columns layer, expert and "
    "count.",
}
TRACE = {
    "TRACE": "Tokens routed to each expert, window by window: a .npz with `load`, a .npy or a "
    ".json, [windows, layers, experts], a .parquet, or what an engine recorded; see --format.",
}
WINDOW = {
    "--window N": "Take window N of a trace (from 0, or from the end: -1), not the sum of all.",
}
MAX_BYTES = {
    "--max-bytes N": "Bytes that reading may hold at once, for one window, line or text. Default: "
    "1073741824 (1 GiB).",
}
LAYOUT = {
    "--as NAME": "How to read numbers that could mean two things: long (rows of layer, expert "
    "and count), loads (tokens, whatever they look like) or placement.",
    "--key NAME": "Key under which the loads are, in a .json, .npz or .pt file; parts joined by "
    "dots.",
    "--window-tokens N": "Tokens of a window, for a log of routed experts. Default: each request "
    "is a window.",
}
PHASE = {
    "--phase NAME": "Take only the tokens of one phase, prefill or decode, from a file that "
    "tells them apart. Default: all tokens.",
}
READING = {
    "--experts N": "Experts per layer, for a file of routed experts (`topk`) that does not say.",
    "--format NAME": "Format of the loads: npz, npy, csv, json, parquet, sglang-recorder, "
    "sglang-logical-count, tensorrt-llm-statistics, vllm-routed-experts, vllm-ascend-load or "
    "route-log. Default: told by the file's ending and content. Required for routed experts of "
    "vLLM [tokens, layers, k] in a .npy, a .npz or a folder.",
    **PHASE,
    **MAX_BYTES,
    **LAYOUT,
}
ORDER = {
    "--from-order FILE": "Convert the numbers of experts from those of a reordered checkpoint to "
    "the original ones. FILE is its evenload_order.json, or its folder.",
    "--to-order FILE": "The reverse: from the original numbers to those of the reordered "
    "checkpoint.",
}
THE_GPUS = "GPUs of the expert-parallel group."
THE_SLOTS = (
    "Slots of a layer over all GPUs; if they do not divide evenly, the first GPUs get one extra. "
    "Slots beyond the number of experts hold replicas of busy ones."
)
CLUSTER = {
    "--gpus G!": THE_GPUS,
    "--nodes N:1": "Nodes, with equally many GPUs each.",
    "--slots S": f"{THE_SLOTS} Default: as few as hold every expert once.",
}
GROUPS = {
    "--groups N:1": "Groups of experts that routing keeps on one node (8 for DeepSeek-V3).",
}
DISPATCH = {
    "--dispatch NAME:even": "How the engine picks a replica for a token: even (vLLM), live (split "
    "for each batch: SGLang's lp), nearest or static (SGLang's, by where replicas are). plan and "
    "evaluate also know one (one replica of each active expert, for --tokens-per-batch).",
}
LIVE_SHARE = {
    "--live-share P": "For --dispatch live: share of the time in which the engine splits tokens "
    "live; in the rest it shares them evenly. Default: 1.",
}
COPY_SLACK = {
    "--copy-slack P": "For --dispatch copy (homes for a balancer that copies experts for every "
    "microbatch, as MoonEP): how far a GPU may stay above its share of the tokens. Default: "
    "0.05.",
}
GPUS = {
    "--gpus G": "GPUs that a placement is for, if its file does not say.",
    "--nodes N": "Nodes of these GPUs, if the file does not say. Default: 1.",
}
PRICES = {
    "--hardware NAME": "Machine that the seconds are for: h100-ib, h200-ib, h800-ib, "
    "ascend-910c, ascend-910b, l40s-pcie or h100-pcie. Required, unless --cost gives all "
    "numbers.",
    "--model NAME": "Whose experts move: deepseek-v3, deepseek-r1, deepseek-v2-lite, "
    "qwen3-235b-a22b, qwen3-30b-a3b, gpt-oss-20b, gpt-oss-120b, kimi-k2, glm-4.5, olmoe-1b-7b, "
    "mixtral-8x7b or mixtral-8x22b. Default: the one that has these layers and experts.",
    "--cost NAME=X*": "Replace one number of the cost model: tokens_per_second, expert_bytes, "
    "bandwidth_in_node, bandwidth_between_nodes (bytes per second), latency (seconds) or overlap "
    "(0 to 1). With the first two no model is needed, with the first four no hardware. May be "
    "given repeatedly.",
}
PHASE_WEIGHT = {
    "--phase-weight NAME=X,...": "For a file of several phases: the weight of each, e.g. "
    "prefill=1,decode=2. Default: equal weights, however many tokens a phase has; with "
    "--expert-time, in proportion to its batches.",
}
BATCHES = {
    "--expert-time NAME": "Plan by seconds, not by tokens: how long a GPU takes for an expert's "
    "tokens. A .csv of `evenload measure-expert-time`, or hardware as for --hardware.",
    "--tokens-per-batch N|NAME=N,...": "For --expert-time or --dispatch one: tokens that all "
    "GPUs together put through a layer at once. For several phases, one number each: "
    "prefill=8192,decode=256.",
    "--top-k N": "For --tokens-per-batch: experts per token. Default: the model's.",
}
MODEL = {"--model NAME": PRICES["--model NAME"].replace("experts move", "experts they are")}
PLACEMENT_FORMAT = (
    "Format of the placement's file, see `evenload convert --to`. Default: told by its content."
)
ONE_WAY = "--slots and --redundant are two ways to say one thing; give one of them"
JSON = {"--json": "Print one JSON object, not a table."}
PLOT = {
    "--plot FILE": "Draw the load of each GPU in each layer, before and after, to a .png, .svg or "
    ".pdf.",
    "--split": "Also show what the placement would reach with a live split of tokens.",
}


# ---- from what was parsed to the library's nouns -------------------------------------------------


def both(given: Any, other: Any, rule: str) -> None:
    """Raise `ValueError` if an option is given without the one that it is for."""
    if given is not None and (other is None or other is False):
        raise ValueError(f"{rule}; give both, or neither")


def cost_of(args: Namespace, num_layers: int, num_experts: int) -> CostModel:
    """Return the costs that `PRICES` tell for a load of that shape; `ValueError` if they do not."""
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
    """Return what `BATCHES` tell for a load of that shape, as arguments of `Problem.build`."""
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
    """Return what `LAYOUT` says, as arguments of the functions that read loads."""
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
    """Return what `ORDER` asks for: orders that bring loads to the numbers that are wanted."""
    given = getattr(args, "from_order", None), getattr(args, "to_order", None)
    if given == (None, None):
        return []
    from evenload.checkpoint import read_order

    back, there = (None if path is None else read_order(path) for path in given)
    return [order for order in (back and back.inverse, there) if order is not None]


def say_phases(phases: Iterable[str]) -> None:
    """Tell that several phases are taken together, if there are any."""
    if len(names := list(phases)) > 1:
        several = " and ".join(names)
        say_notes([f"the phases {several} are taken together; --phase {names[-1]} takes one"])


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


# ---- stderr: notes and how far it is -------------------------------------------------------------


_TERMINAL_SECONDS, _LOG_SECONDS = 0.2, 10.0  # from one look at long work to the next


def _over(line: str) -> None:
    """Write over the last line of a terminal."""
    width = shutil.get_terminal_size().columns - 1
    sys.stderr.write("\r" + printable(line)[:width].ljust(width) + "\r")
    sys.stderr.flush()


def say(line: str) -> None:
    """Print one line to stderr; what names and files have in it that does not print is escaped."""
    if sys.stderr.isatty():
        _over("")
    sys.stderr.write(f"{printable(line)}\n")
    sys.stderr.flush()


_folded: ContextVar[list[str] | None] = ContextVar("folded", default=None)


def say_notes(notes: Iterable[str], *, fold: bool = True) -> None:
    """Print notes to stderr, one a line; within `folded_notes` at its end, unless not to `fold`."""
    folded = _folded.get()
    if fold and folded is not None:
        folded.extend(notes)
        return
    for note in notes:
        say(f"note: {note}")


@contextmanager
def folded_notes(verbose: bool) -> Iterator[None]:
    """Print the block's notes as one line when it ends: the first, and how many more there are.

    All of them, as they come, where that is wanted.
    """
    notes: list[str] = []
    before = _folded.set(None if verbose else notes)
    try:
        yield
    finally:
        _folded.reset(before)
        more = f" (and {len(notes) - 1} more; --verbose shows all)" if len(notes) > 1 else ""
        say_notes(f"{note}{more}" for note in notes[:1])


@contextmanager
def busy(what: str) -> Iterator[Callable[..., None]]:
    """Show on stderr how far long work is: in one line on a terminal, else every ten seconds.

    Yields a function that takes a few words, or how much is done and of how much.
    """
    terminal, stop = sys.stderr.isatty(), threading.Event()
    pause, write = (_TERMINAL_SECONDS, _over) if terminal else (_LOG_SECONDS, say)
    started, words, first, due = time.monotonic(), "", None, 0.0

    def tell(done: str | int, total: int | None = None) -> None:
        nonlocal words, first, due
        words = f"{done}, " if total is None else f"{done} of {total}, "
        due, now = 0.0, time.monotonic()
        if total is None:
            return
        first = int(done) if first is None else first
        if int(done) > first:
            due = now + (now - started) * (total - int(done)) / (int(done) - first)

    def show() -> None:
        while not stop.wait(pause):
            now = time.monotonic()  # past `due` nothing is known: it waits for kernels, say
            left = f"about {due - now:.0f} s left after " if now < due else ""
            write(f"{what}: {words}{left}{now - started:.0f} s")

    clock = threading.Thread(target=show, daemon=True)
    clock.start()
    try:
        yield tell
    finally:
        stop.set()
        clock.join()
        if terminal:
            _over("")


@contextmanager
def drawing(what: str, path: Path) -> Iterator[None]:
    """Show that the block draws, and say where `what` is then."""
    with busy("drawing"):
        yield
    say(f"wrote {what} to {path}")


@contextmanager
def kernels() -> Iterator[None]:
    """Say on stderr when kernels have to be compiled, and after the block how long they took."""
    from numba.core.event import Event, Listener, install_listener

    from evenload.clock import Stopwatch

    class First(Listener):  # type: ignore[misc]
        told = False

        def on_start(self, event: Event) -> None:
            if not self.told:
                say("compiling kernels; this takes a while, once")
            self.told = True

        def on_end(self, event: Event) -> None:
            pass

    with install_listener("numba:compile", First()), Stopwatch() as watch:
        yield
    compiled = f", of which {watch.compiling:.2f} s compiling" if watch.compiling else ""
    say(f"kernels ready in {watch.kernels:.2f} s{compiled}")


# ---- results -----------------------------------------------------------------------------------


def check_places(*paths: Path | None) -> None:
    """Raise `ValueError` where there is no folder for an output, before any work is done."""
    from evenload.io import check_place

    for path in paths:
        if path is not None:
            check_place(path)


def check_outputs(output: Path | None, form: str | None, *plots: Path | None) -> None:
    """Raise `ValueError` for an output that could not be written, before any work is done."""
    both(form, output, "--output-format is of --output")
    check_places(output, *plots)
    if output is not None:
        from evenload.io import find_output

        find_output(output, form)
    for plot in plots:
        if plot is not None:
            from evenload.report.figures import check_plot_path

            check_plot_path(plot)


def show(
    args: Namespace, context: Context, summaries: Sequence[Summary], lines: list[str], **extra: Any
) -> None:
    """Print a report to stdout, and draw its picture where one is wanted.

    `lines` stand below the table; `extra` are more entries of the JSON object.
    """
    if args.plot is not None:
        from evenload.report.figures import draw_heatmaps, save_figure

        with drawing("the picture", args.plot):
            nodes = context.cluster.num_nodes
            save_figure(args.plot, draw_heatmaps(context.title(), summaries, nodes))
    if args.json:
        from evenload.report.compare import report_to_plain

        print_json(report_to_plain(context, summaries) | extra)
    else:
        from evenload.report.tables import print_report

        print_report(context.title(), summaries, lines, sys.stdout)


def show_json(trace: Trace, **entries: Any) -> None:
    """Print one JSON object about a trace."""
    from evenload import __version__

    about = {"source": trace.source, "shape": list(trace.shape)}
    print_json({"evenload": __version__, "trace": about, **entries})


def print_json(entries: dict[str, Any]) -> None:
    """Print one JSON object to stdout."""
    import json

    sys.stdout.write(f"{json.dumps(entries)}\n")
