"""Run the benchmarks: ``python -m benchmarks.run [NAME ...] [--quick] [--update-readme]``.

With ``--redraw`` nothing is measured: the page and the figures are made anew from the results kept.
"""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import report
from benchmarks.machine import describe

ROOT = Path(__file__).resolve().parents[1]
INTERRUPTED = 130
MISSING = 2


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line names; nothing is written before the last benchmark has ended."""
    options = _parse(arguments)
    folder = options.out or ROOT / ("build/quick" if options.quick else "docs")
    names = [name for name in report.SECTIONS if name in options.names or not options.names]
    results = report.load(folder)
    if options.redraw and not results:
        print(f"there are no results in {folder} to redraw; run the benchmarks", file=sys.stderr)
        return MISSING
    try:
        if not options.redraw:
            results |= {name: _run(name, options.quick) for name in names}
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return INTERRUPTED
    for path in report.write(folder, results):
        print(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    if options.update_readme:
        return _update_readme(results)
    return 0


def _update_readme(results: report.Results) -> int:
    try:
        report.update_readme(ROOT / "README.md", results)
    except ValueError as error:
        print(f"README.md was left as it is: {error}", file=sys.stderr)
        return 1
    return 0


def _run(name: str, quick: bool) -> dict[str, object]:
    command = f"python -m benchmarks.run {name}" + (" --quick" if quick else "")
    result = report.SECTIONS[name].run(quick, _say)
    _say("")
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    return {"date": date, "command": command, "machine": describe(), "result": result}


def _say(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(report.SECTIONS))
    parser.add_argument("--quick", action="store_true", help="few rounds, into build/quick")
    parser.add_argument("--out", type=Path, metavar="DIR", help="instead of docs")
    parser.add_argument("--update-readme", action="store_true", help="put the main table there")
    parser.add_argument("--redraw", action="store_true", help="page and figures only, no run")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in report.SECTIONS]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}; use {', '.join(report.SECTIONS)}")
    if options.redraw and options.names:
        parser.error("--redraw makes all pages and figures anew; leave out the names")
    if options.quick and options.update_readme:
        parser.error("--quick is too short for the README; leave one of the two out")
    return options


if __name__ == "__main__":
    sys.exit(main())
