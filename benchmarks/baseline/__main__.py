"""Compare a tree with what was frozen: ``python -m benchmarks.baseline [--only PART] [--freeze]``.

Without ``--freeze``, prints what got worse and exits with 1 if anything did. It uses the public
names of evenload only, so any tree that has those can be measured: ``--src DIR`` takes another's.
"""

import argparse
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

PATH = Path(__file__).resolve().parents[1] / "baseline.json"
PARTS = {"golden": "golden", "quality": "quality", "time": "timing", "drift": "drift",
         "start": "start"}  # fmt: skip


def main() -> int:
    """Measure, then compare or freeze."""
    options = _parse()
    if options.src:
        return _elsewhere(options.src)
    from benchmarks.baseline.compare import compare
    from benchmarks.machine import describe

    now: dict[str, Any] = {}
    for part in options.only or PARTS:
        module = import_module(f"benchmarks.baseline.{PARTS[part]}")
        now[part] = module.measure(_say)
    _say("")
    frozen = json.loads(options.file.read_text()) if options.file.is_file() else {}
    if options.freeze:
        date = datetime.now(UTC).strftime("%Y-%m-%d")
        origin = {"date": date, "note": options.note, "machine": describe()}
        frozen |= now
        frozen["origin"] = frozen.get("origin", {}) | dict.fromkeys(now, origin)
        options.file.write_text(json.dumps(frozen, indent=1) + "\n")
        return 0
    verdict = compare(frozen, now, options.clock)
    print(*(f"  {line}" for line in verdict.told), sep="\n")
    print(f"{verdict.compared} rows compared, {len(verdict.worse)} worse")
    print(*(f"WORSE {line}" for line in verdict.worse), sep="\n", end="")
    return 1 if verdict.worse else 0


def _elsewhere(source: Path) -> int:
    """Do the same in a process that imports evenload from another folder."""
    if not (source / "evenload" / "__init__.py").is_file():
        raise SystemExit(f"--src {source}: there is no evenload/__init__.py; give a folder `src`")
    arguments = sys.argv[1:]
    at = next(i for i, word in enumerate(arguments) if word.split("=")[0] == "--src")
    del arguments[at : at + (1 if "=" in arguments[at] else 2)]
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(source.resolve()), str(root)])}
    command = [sys.executable, "-m", "benchmarks.baseline", *arguments]
    return subprocess.run(command, env=environment, check=False).returncode


def _say(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.baseline", description=__doc__)
    parser.add_argument("--only", action="append", choices=PARTS, help="this part; again for more")
    parser.add_argument("--freeze", action="store_true", help="write what is measured now")
    parser.add_argument("--file", type=Path, default=PATH, help="instead of baseline.json")
    parser.add_argument("--src", type=Path, metavar="DIR", help="measure the evenload in DIR")
    parser.add_argument("--note", default="", help="kept with what is frozen")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall",
                        help="what judges times; cpu where others use the machine")  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
