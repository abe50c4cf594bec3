"""Run the benchmarks: ``python -m benchmarks.run [NAME ...] [--quick] [--update-readme]``.

With ``--redraw`` nothing is measured: the page and the figures are made anew from the results kept.
What ``python -m benchmarks.on_gpu`` kept beside them is shown too.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from benchmarks import (
    cold_start,
    copying,
    decode,
    dispatch,
    drift,
    efforts,
    gap,
    live,
    memory,
    on_gpu_page,
    phases,
    quality_speed,
    readers,
    reorder,
    replay_speed,
    scaling,
    seconds,
    while_serving,
)
from benchmarks.measure import machine, number, origin, say, table
from evenload.io import replace_file

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs"  # the page and results.json go to `benchmarks` below it, pictures to `figures`
SECTIONS: dict[str, Any] = {
    "quality_speed": quality_speed,
    "while_serving": while_serving,
    "efforts": efforts,
    "gap": gap,
    "dispatch": dispatch,
    "decode": decode,
    "drift": drift,
    "seconds": seconds,
    "phases": phases,
    "copying": copying,
    "reorder": reorder,
    "live": live,
    "scaling": scaling,
    "cold_start": cold_start,
    "memory": memory,
    "readers": readers,
    "replay_speed": replay_speed,
}
INTERRUPTED, MISSING = 130, 2
Results = dict[str, dict[str, Any]]


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line names; nothing is written before the last benchmark has ended."""
    options = _parse(arguments)
    folder = options.out or (ROOT / "build" / "quick" if options.quick else OUT)
    kept = folder / "benchmarks" / "results.json"  # a run of one benchmark keeps the others' there
    results: Results = json.loads(kept.read_text()) if kept.is_file() else {}
    if options.redraw and not results:
        print(f"there are no results in {folder} to redraw; run the benchmarks", file=sys.stderr)
        return MISSING
    try:
        if not options.redraw:
            names = [name for name in SECTIONS if name in options.names or not options.names]
            results |= {name: _run(name, options.quick) for name in names}
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return INTERRUPTED
    for path in write(folder, results):
        print(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    if options.update_readme:
        readme = ROOT / "README.md"
        try:
            text = insert(readme.read_text(), main_table(results))
        except ValueError as error:
            print(f"README.md was left as it is: {error}", file=sys.stderr)
            return 1
        with replace_file(readme) as stream:
            stream.write(text.encode())
    return 0


def _run(name: str, quick: bool) -> dict[str, Any]:
    command = f"python -m benchmarks.run {name}" + (" --quick" if quick else "")
    result = SECTIONS[name].run(quick, say)
    say("")
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    return {"date": date, "command": command, "machine": machine(), "result": result}


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="few rounds, into build/quick")
    parser.add_argument("--out", type=Path, metavar="DIR", help="instead of docs")
    parser.add_argument("--update-readme", action="store_true", help="put the main table there")
    parser.add_argument("--redraw", action="store_true", help="page and figures only, no run")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in SECTIONS]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}; use {', '.join(SECTIONS)}")
    if options.redraw and options.names:
        parser.error("--redraw makes all pages and figures anew; leave out the names")
    if options.quick and options.update_readme:
        parser.error("--quick is too short for the README; leave one of the two out")
    return options


def write(folder: Path, results: Results) -> list[Path]:
    """Write all that follows from `results` below `folder`; each file whole or not at all."""
    parts = [
        "# Benchmarks",
        "Written by `python -m benchmarks.run`; the numbers are in [results.json](results.json). "
        "Times compare within one run only.",
    ]
    for name in (name for name in SECTIONS if name in results):
        parts += [f"## {SECTIONS[name].TITLE}", SECTIONS[name].render(results[name]["result"]),
                  f"{origin(results[name])}."]  # fmt: skip
    on_gpu = folder / "benchmarks" / "on_gpu.json"
    if on_gpu.is_file():
        parts.append(on_gpu_page.render(json.loads(on_gpu.read_text())))
    numbers, page = json.dumps(results, indent=1) + "\n", "\n\n".join(parts) + "\n"
    written: dict[Path, Callable[[BinaryIO], object]] = {
        folder / "benchmarks" / "results.json": lambda stream: stream.write(numbers.encode()),
        folder / "benchmarks" / "README.md": lambda stream: stream.write(page.encode()),
    }
    for name in (name for name in results if hasattr(SECTIONS[name], "draw")):
        picture = folder / "figures" / f"{name}.png"
        written[picture] = partial(SECTIONS[name].draw, results[name]["result"])
    for path, fill in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as stream:
            fill(stream)
    return list(written)


BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"
FRESH = "calibrated, seed 0"  # the load of the README's times: like DeepSeek-V3's
# Planners in the README's table: in the drift benchmark, in that on dispatch, and fresh plans.
PLANNERS = {
    "vLLM 0.33.0": ("vLLM 0.33.0, last window", None, "vLLM 0.33.0"),
    "DeepSeek EPLB": (None, "DeepSeek EPLB, last window", "DeepSeek EPLB"),
    "evenload, for even sharing": (None, "for even sharing", "evenload auto"),
    "evenload, for a live split": (None, "for a live split", None),
}


def main_table(results: Results) -> str:
    """Return the README's table: recorded traffic followed window by window, and a fresh plan.

    Raises
    ------
    ValueError
        If it was not measured.
    """
    for name in ("quality_speed", "drift", "dispatch"):
        if name not in results:
            raise ValueError(f"there is no main table yet; run the benchmark {name} first")
    drifts = [of for of in results["drift"]["result"]["traces"] if of["judged"]]
    dispatches = [of for of in results["dispatch"]["result"]["traces"] if of["measured"]]
    cases = {case["name"]: case for case in results["quality_speed"]["result"]["main"]}
    fresh = {p["name"]: p["ms"]["median"] for p in cases[FRESH]["planners"]}
    rows = []
    for shown, (alone, shared, plan) in PLANNERS.items():
        if alone is not None:
            each = [_planner(of["policies"], "name", alone) for of in drifts]
            slots = [of["slots"] * of["layers"] for of in drifts]
            even, live = _mean(p["balancedness"] for p in each), ""
            moved = _mean(p["moves"] / of for p, of in zip(each, slots, strict=True))
        else:
            each = [_planner(of["planners"], "planner", shared) for of in dispatches]
            even, moved = _mean(p["even"] for p in each), _mean(p["moves"] for p in each)
            live = f"{_mean(p['live'] for p in each):.3f}"
        took = "" if plan is None else f"{number(fresh[plan])} ms"
        rows.append([shown, f"{even:.3f}", live, f"{moved:.1%}", took])
    head = ["planner", "balancedness", "with a live split", "slots moved", "a fresh plan"]
    theirs, ours = rows[0], rows[2]
    claim = (
        f"Against {theirs[0]}'s own planner, evenload reaches a balancedness of {ours[1]} instead "
        f"of {theirs[1]} in the next window, which no planner saw, and moves {ours[3]} of the "
        f"slots instead of {theirs[3]}:"
    )
    told = (
        f"Mean of {len(dispatches)} [replays of recorded traffic](docs/benchmarks/README.md#drift) "
        f"on 8 to 32 GPUs. A fresh plan: {cases[FRESH]['size']}, on a CPU."
    )
    return "\n\n".join([claim, table(head, rows), told])


def _planner(rows: list[dict[str, Any]], key: str, name: str) -> dict[str, Any]:
    return next(row for row in rows if row[key].startswith(name))


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def insert(text: str, content: str) -> str:
    """Return `text` with `content` between the two markers.

    Raises
    ------
    ValueError
        If the markers are not there, once each and in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        raise ValueError(f"the README needs one {BEGIN} and, below it, one {END}")
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


if __name__ == "__main__":
    sys.exit(main())
