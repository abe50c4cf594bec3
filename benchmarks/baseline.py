"""Compare a tree with what was frozen: ``python -m benchmarks.baseline [--only PART] [--freeze]``.

Prints what got worse, and exits with 1 if anything did; ``--src DIR`` measures the evenload in DIR.
What is right as it is, though worse, stands in `exceptions` of the frozen file, with the reason.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.problems import MEASURED

PATH = Path(__file__).with_name("baseline.json")
MEAN, MEAN_FEW = 1e-4, 2e-4  # of a mean balancedness; where a GPU has three slots or fewer
WORST = 30  # times as much for the worst layer, which is one draw
BOUND = 1e-6
RATIO = 1.1  # of times
BLINK = 0.02  # seconds of a warm start that are nobody's to notice
POINT = 1e-3  # balancedness at equal moves
NOISE = 2.0  # standard errors within which two frontiers are the same


@dataclass
class Verdict:
    """Sentences on what changed.

    Attributes
    ----------
    worse : list of str
        By more than is allowed: the comparison fails.
    told : list of str
        Worth knowing; nobody's failure.
    compared : int
        Rows that both measurements have.
    """

    worse: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    compared: int = 0


def compare(frozen: dict[str, Any], now: dict[str, Any], clock: str = "wall") -> Verdict:
    """Compare all parts that were measured now with the frozen ones, but for its exceptions."""
    verdict = Verdict()
    for part, judge in JUDGES.items():
        if part in now and part in frozen:
            judge(frozen[part], now[part], verdict, clock)
        elif part in now:
            verdict.told.append(f"{part}: nothing is frozen to compare with")
    for line in list(verdict.worse):
        for pattern, reason in frozen.get("exceptions", {}).items():
            if fnmatchcase(line, pattern):
                verdict.worse.remove(line)
                verdict.told.append(f"excepted, {line}: {reason}")
                break
    return verdict


def _common(old: dict[str, Any], new: dict[str, Any], verdict: Verdict) -> Iterator[str]:
    lost = sorted(old.keys() - new.keys())
    if lost:
        verdict.told.append(f"not measured here, {len(lost)} rows: {', '.join(lost[:3])} ...")
    for name in [name for name in old if name in new]:
        verdict.compared += 1
        yield name


def _excepted(name: str) -> bool:
    """Whether a row is of `auto` on a measured load: it is to be fast there, see `_tell_target`."""
    return name.endswith("| auto") and any(load in name for load in MEASURED)


def _quality(old: dict[str, Any], new: dict[str, Any], verdict: Verdict, _: str) -> None:
    changed = 0
    for name in _common(old, new, verdict):
        was, now = old[name], new[name]
        if "failed" in now:
            verdict.worse.append(f"{name}: {now['failed']}")
            continue
        changed += was["digest"] != now["digest"]
        few = MEAN_FEW if was["few"] else MEAN
        judged = "score" if "score" in was else "mean"
        if _excepted(name):
            _tell_target(name, was, now, verdict)
        else:
            _lower(name, judged, was, now, few, verdict)
            _lower(name, "worst", was, now, WORST * few, verdict)
        if now["duplicates"] > was["duplicates"]:
            verdict.worse.append(f"{name}: duplicates {was['duplicates']} -> {now['duplicates']}")
        if "bound" in was and now["bound"] > was["bound"] + BOUND:
            verdict.worse.append(f"{name}: bound {was['bound']:.6f} -> {now['bound']:.6f}")
    if changed:
        verdict.told.append(f"quality: {changed} of {len(old)} rows have other plans than before")


def _lower(
    name: str, key: str, was: dict[str, Any], now: dict[str, Any], most: float, verdict: Verdict
) -> None:
    if now[key] < was[key] - most:
        verdict.worse.append(
            f"{name}: {key} {was[key]:.5f} -> {now[key]:.5f} ({now[key] - was[key]:+.5f})"
        )


def _tell_target(name: str, was: dict[str, Any], now: dict[str, Any], verdict: Verdict) -> None:
    verdict.told.append(
        f"{name}: mean {was['mean']:.5f} -> {now['mean']:.5f}, bound {now['bound']:.5f} "
        "(wanted: .999 where the bound allows it, in no more time than vLLM)"
    )


def _time(old: dict[str, Any], new: dict[str, Any], verdict: Verdict, clock: str) -> None:
    for name in _common(old, new, verdict):
        was, now = old[name][clock], new[name][clock]
        if now > was * RATIO:
            verdict.worse.append(
                f"{name}: {was:.3f} -> {now:.3f} x vLLM's {clock} time ({now / was - 1:+.0%})"
            )
        if _excepted(name):
            verdict.told.append(f"{name}: {was:.3f} -> {now:.3f} x vLLM's {clock} time (wanted: 1)")


def _drift(old: dict[str, Any], new: dict[str, Any], verdict: Verdict, _: str) -> None:
    lower = []
    for name in _common(old, new, verdict):
        below, noise = frontier_below(old[name], new[name])
        lower.append(below)
        most = max(POINT, NOISE * noise)
        for moves, b in zip(np.mean(old[name]["moves"], axis=1), below, strict=True):
            if b > most:
                verdict.worse.append(
                    f"drift, {name}: {100 * b:.2f} points lower at {moves:.1f} moves per window "
                    f"(noise {100 * noise:.2f})"
                )
    if lower:
        mean = np.mean(lower, axis=0)
        told = ", ".join(f"{-100 * b:+.3f}" for b in mean)
        verdict.told.append(f"drift, mean of all traces at the moves of each price: {told} points")
        if (mean > POINT).any():
            verdict.worse.append(f"drift, mean of all traces: {told} points")


def frontier_below(old: dict[str, Any], new: dict[str, Any]) -> tuple[Any, float]:
    """Return how far one frontier is below another at the moves of the other, and the noise of it.

    Returns
    -------
    below : float64 ndarray, [prices]
        Negative where it is above. Between prices balancedness is interpolated over the logarithm
        of the moves; beyond the last price it is that price's.
    noise : float
        Standard error of the difference, from what numberings of the experts differ by.
    """
    moves = [np.log1p(np.mean(side["moves"], axis=1)) for side in (old, new)]
    reached = [np.array(side["balancedness"]) for side in (old, new)]
    order = np.argsort(moves[1])
    there = np.interp(moves[0], moves[1][order], reached[1].mean(axis=1)[order])
    errors = [np.sqrt(r.var(axis=1, ddof=1).mean() / r.shape[1]) for r in reached]
    return reached[0].mean(axis=1) - there, float(np.hypot(*errors))


def _start(old: dict[str, Any], new: dict[str, Any], verdict: Verdict, clock: str) -> None:
    for name in _common(old["cold"], new["cold"], verdict):
        was, now = old["cold"][name], new["cold"][name]
        verdict.told.append(
            f"from an empty cache, {name}: {was['cpu']:.1f} -> {now['cpu']:.1f} CPU seconds, "
            f"{was['compilations']} -> {now['compilations']} compilations"
        )
        if now["cpu"] > was["cpu"] * RATIO or now["compilations"] > was["compilations"]:
            verdict.worse.append(verdict.told[-1])
    trivial = next(iter(old["warm"]))
    for name in _common(old["warm"], new["warm"], verdict):
        was, now = (
            start[name][clock] - start[trivial][clock] for start in (old["warm"], new["warm"])
        )
        if name == trivial:
            continue
        verdict.told.append(f"warm, {name}: {was:+.2f} -> {now:+.2f} s over {trivial} ({clock})")
        if now > was + max((RATIO - 1) * abs(was), BLINK):
            verdict.worse.append(verdict.told[-1])


def _golden(old: dict[str, str], new: dict[str, str], verdict: Verdict, _: str) -> None:
    for name in _common(old, new, verdict):
        if old[name] != new[name]:
            verdict.worse.append(f"golden, {name}: {old[name]} -> {new[name]}")


JUDGES = {"golden": _golden, "quality": _quality, "time": _time, "drift": _drift, "start": _start}


def main() -> int:
    """Measure, then compare or freeze."""
    options = _parse()
    if options.src:
        return _elsewhere(options.src)
    from benchmarks import frozen as parts
    from benchmarks.measure import machine, say

    now = {part: getattr(parts, part)(say) for part in options.only or JUDGES}
    say("")
    kept = json.loads(options.file.read_text()) if options.file.is_file() else {}
    if options.freeze:
        date = datetime.now(UTC).strftime("%Y-%m-%d")
        told = {"date": date, "note": options.note, "machine": machine()}
        kept = kept | now | {"origin": kept.get("origin", {}) | dict.fromkeys(now, told)}
        options.file.write_text(to_text(kept))
        return 0
    verdict = compare(kept, now, options.clock)
    for line in [*(f"      {told}" for told in verdict.told),
                 *(f"WORSE {worse}" for worse in verdict.worse)]:  # fmt: skip
        print(line)
    print(f"{verdict.compared} rows compared, {len(verdict.worse)} worse")
    return 1 if verdict.worse else 0


def to_text(kept: dict[str, Any]) -> str:
    """Return JSON with a line a row, so that a change of one row is a change of one line."""
    parts = []
    for part, rows in kept.items():
        lines = [f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()]
        parts.append(f" {json.dumps(part)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _elsewhere(source: Path) -> int:
    """Do the same in a process that imports evenload from another folder."""
    if not (source / "evenload" / "__init__.py").is_file():
        raise SystemExit(f"--src {source}: there is no evenload/__init__.py; give a folder `src`")
    words = sys.argv[1:]
    at = next(i for i, word in enumerate(words) if word.split("=")[0] == "--src")
    del words[at : at + (1 if "=" in words[at] else 2)]
    paths = [str(source.resolve()), str(Path(__file__).resolve().parents[1])]
    command = [sys.executable, "-m", "benchmarks.baseline", *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(command, env=environment, check=False).returncode


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.baseline", description=__doc__)
    parser.add_argument("--only", action="append", choices=JUDGES, help="this part; or several")
    parser.add_argument("--freeze", action="store_true", help="write what is measured now")
    parser.add_argument("--file", type=Path, default=PATH, help="instead of baseline.json")
    parser.add_argument("--src", type=Path, metavar="DIR", help="measure the evenload in DIR")
    parser.add_argument("--note", default="", help="kept with what is frozen")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall",
                        help="what judges times; cpu where others use the machine")  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
