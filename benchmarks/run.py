"""Run the benchmarks: ``python -m benchmarks.run [NAME ...] [--quick] [--update-readme]``.

With ``--redraw`` nothing is measured: the page and the figures are made anew from the results kept.
What ``python -m benchmarks.on_gpu`` kept beside them is shown too.
"""

import argparse
import json
import sys
from collections.abc import Callable
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
from benchmarks.measure import machine, number, origin, say, table, times
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
# Columns of balancedness in the README's table, and the one of them that the times are from.
LOADS = {"lognormal 0.5": "lognormal 0.5", "lognormal 1.0": "lognormal 1.0",
         "zipf 1.0": "zipf 1.0", "calibrated, seed 0": "DeepSeek-V3-like"}  # fmt: skip
TIMED = "calibrated, seed 0"


def main_table(results: Results) -> str:
    """Return the README's tables: time on one load and mean balancedness on four; live calls.

    Raises
    ------
    ValueError
        If it was not measured.
    """
    if "quality_speed" not in results:
        raise ValueError("there is no main table yet; run the benchmark quality_speed first")
    section = results["quality_speed"]
    cases = {case["name"]: case for case in section["result"]["main"]}
    reached = [{p["name"]: p["mean"] for p in cases[name]["planners"]} for name in LOADS]
    rows = [
        [
            p["name"],
            number(p["ms"]["median"]),
            *(times(p["faster"].get(other)) for other in while_serving.REFERENCES),
            *(f"{means[p['name']]:.4f}" for means in reached),
            str(p["duplicates"]),
            str(p["moves"]),
        ]
        for p in sorted(cases[TIMED]["planners"], key=_place)
    ]
    bound = ["proven bound", *[""] * 3, *(f"{cases[name]['bound']:.4f}" for name in LOADS), "", ""]
    head = ["planner", "ms", "vs vLLM", "vs DeepSeek", *LOADS.values(), "duplicates", "moves"]
    told = (
        f"{cases[TIMED]['size']}. Time, duplicates and moves are of the DeepSeek-V3-like load; the "
        "four columns in the middle are balancedness, mean over layers. Measured with "
        f"{origin(section)}. "
    )
    missing = " ".join(f"Not run: {reason}" for reason in section["result"]["missing"])
    parts = [table(head, [*rows, bound]), (told + missing).strip()]
    if "while_serving" in results:
        beside = while_serving.tables(results["while_serving"]["result"])
        said = "What runs while a model serves, beside fresh plans of the last window"
        parts += [f"{said}, measured with {origin(results['while_serving'])}:", *beside]
    return "\n\n".join(parts)


def _place(planner: dict[str, Any]) -> int:
    """Put what others are compared with first."""
    known = [name == planner["name"] for name in while_serving.REFERENCES]
    return known.index(True) if True in known else len(known)


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
