"""What advice on slots says: a table, a sentence for each number of GPUs, and a JSON object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO, Any

from evenload.report.policies import change
from evenload.report.tables import print_table
from evenload.report.text import counted, four_digits, percent_down, percent_up, up
from evenload.sizing import FILLED, NEAR, UNKNOWN, WORTH, Advice, Size

_NONE = "-"
_CHOSEN = "*"


def rule(advice: Advice) -> str:
    """Say in one sentence what is recommended, and by what figure."""
    window = "in the next window" if advice.unseen else "on the load that the plan was made from"
    slot = f" (a slot counts for {UNKNOWN:.0%} of it)" if advice.none.room is None else ""
    return (
        f"Rule: the fewest slots whose time {window}, over the memory left for KV cache{slot}, is "
        f"within {NEAR:.0%} of the least or within its standard error; and none unless the least "
        f"is {WORTH:.0%} below that of none."
    )


def _more(size: Size) -> str:
    return f"{counted(size.redundant_per_gpu, 'redundant slot')} per GPU"


def _memory(size: Size, none: Size) -> str:
    """Tell what the redundant slots take, where the model is known."""
    if size.weight_bytes is None or none.weight_bytes is None:
        return ""
    taken = size.weight_bytes - none.weight_bytes
    left = "" if none.room is None else f", {percent_up(taken / none.room, 1)} of what is left"
    return (
        f", for {four_digits(taken / 1e9)} GB per GPU or {size.kv_tokens or 0.0:,.0f} tokens of KV "
        f"cache{left}"
    )


def _saves(size: Size, none: Size) -> str:
    part = 1.0 - size.time / none.time
    if part <= 0.0:
        return f"takes {percent_up(-part, 1)} more time"
    return f"saves {percent_down(part)} of the time"


def reason(advice: Advice, *, told: bool = False) -> str:
    """Return the recommendation in one sentence, with its reason; the dispatch where `told`."""
    none, best, chosen = advice.none, advice.best, advice.chosen
    head = counted(advice.num_gpus, "GPU") + (f", dispatch {advice.dispatch}" if told else "")
    if not advice.fits:
        taken, room = none.weight_bytes or 0.0, none.room or 0.0
        return (
            f"{head}: does not fit: the experts take {four_digits(taken / 1e9)} GB per GPU, of "
            f"{four_digits((taken + room) / 1e9)} GB that an engine fills ({FILLED:.0%} of the "
            "memory)"
        )
    if chosen is not none:
        text = f"{head}: buy {_more(chosen)} ({chosen.cluster.num_slots} a layer): "
        text += _saves(chosen, none) + _memory(chosen, none)
        if best is not chosen:
            text += (
                f"; {best.redundant_per_gpu} would save {percent_down(1.0 - best.time / none.time)}"
            )
        return text
    if len(advice.sizes) == 1:
        return f"{head}: buy none: no other number was tried"
    other = min(advice.sizes[1:], key=lambda size: (size.cost, size.time))
    return f"{head}: buy none: {_more(other)} {_saves(other, none)}{_memory(other, none)}"


def _ways(advices: Sequence[Advice]) -> bool:
    return len({advice.dispatch for advice in advices}) > 1


def sizes_lines(advices: Sequence[Advice]) -> list[str]:
    """Return the sentences below the table."""
    first = advices[0]
    told = _ways(advices)
    what = "active experts" if first.dispatch == "one" else "tokens"
    found = [*(f"{reason(advice, told=told)}." for advice in advices), rule(first)]
    if first.time_source:
        found.append(f"Time: of each layer's slowest GPU in a batch; experts {first.time_source}.")
    else:
        found.append(
            f"Time: {what} on each layer's slowest GPU over the mean, which is no time where "
            "batches are small; --hardware, --model and --tokens-per-batch give seconds."
        )
    if not first.unseen:
        found.append(
            "Judged on the load that the plans were made from: a trace with several windows tells "
            "what is left of that in the next one."
        )
    if first.none.weight_bytes is None:
        found.append("Memory: not known; --model tells it.")
    return found


def _time(advice: Advice, seconds: float) -> str:
    return four_digits(1e6 * seconds) if advice.time_source else up(seconds, 4)


def print_sizes(title: str, advices: Sequence[Advice], file: IO[str]) -> None:
    """Print a row for each number of slots; what is recommended has a star."""
    first, rows = advices[0], []
    phases, told = list(first.none.in_sample), _ways(advices)
    unit = "µs" if first.time_source else "x ideal"
    heads = ["", "GPUs", "slots\na layer", "redundant\nper GPU"]
    heads += ["dispatch"] if told else []
    heads += ["GB of\nexperts", "KV tokens\nlost"] if first.none.weight_bytes is not None else []
    for phase in phases:
        of = f"{phase}\n" if phase else ""
        heads.append(f"{of}in-sample\n{unit}")
        heads += [f"{of}next\nwindow\n{unit}"] if first.unseen else []
    heads.append("against\nnone")
    for advice in advices:
        for size in (advice.trivial, *advice.sizes):
            trivial = size is advice.trivial
            row = [_CHOSEN if size is advice.chosen and advice.fits else ""]
            row += [str(advice.num_gpus) if trivial else "", f"{size.cluster.num_slots:,}"]
            row.append("0, trivial" if trivial else str(size.redundant_per_gpu))
            row += [advice.dispatch if trivial else ""] if told else []
            if size.weight_bytes is not None:
                row += [four_digits(size.weight_bytes / 1e9), f"{size.kv_tokens or 0.0:,.0f}"]
            for phase in phases:
                row.append(_time(advice, size.in_sample[phase]))
                row += [_time(advice, size.next_window[phase])] if advice.unseen else []
            row.append(_NONE if size is advice.none else change(size.time, advice.none.time))
            rows.append(row)
    print_table(title, heads, rows, sizes_lines(advices), file)


def sizes_entry(advices: Sequence[Advice]) -> list[dict[str, Any]]:
    """Return the advice as plain numbers, one dict for each number of GPUs and dispatch."""

    def plain(size: Size) -> dict[str, Any]:
        return {
            "num_slots": size.cluster.num_slots,
            "redundant_per_gpu": size.redundant_per_gpu,
            "weight_bytes": size.weight_bytes,
            "kv_tokens_lost": size.kv_tokens,
            "in_sample": _named(size.in_sample),
            "next_window": _named(size.next_window),
            "judged": size.judged.tolist(),
        }

    return [
        {
            "num_gpus": advice.num_gpus,
            "num_nodes": advice.none.cluster.num_nodes,
            "dispatch": advice.dispatch,
            "unit": "seconds per layer and batch" if advice.time_source else "x ideal",
            "judged_by": "next window" if advice.unseen else "in-sample",
            "recommended": plain(advice.chosen) if advice.fits else None,
            "reason": reason(advice),
            "trivial": plain(advice.trivial),
            "sizes": [plain(size) for size in advice.sizes],
        }
        for advice in advices
    ]


def _named(by_phase: Mapping[str, float]) -> Any:
    """Return the one figure where no phases have a name."""
    return by_phase[""] if list(by_phase) == [""] else dict(by_phase)
