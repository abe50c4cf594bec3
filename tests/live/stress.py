"""`make live-stress SEED=0 TRIALS=500`: seeded trials, and a line on all that went wrong."""

import argparse
import collections
import sys
import time

from live_trials import STEPS, Trials, make_spec, steps_spec

EVERY = 50  # trials from one line of progress to the next


def main() -> int:
    """Run the trials, print what is wrong as it comes, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--side-by-side", type=int, default=4)
    parser.add_argument("--verbose", action="store_true")
    asked = parser.parse_args()
    trials, wrong, began = Trials(), 0, time.monotonic()
    kinds, points = collections.Counter(), collections.Counter()
    restored = moved = fenced = 0
    detected = []
    try:
        specs = [make_spec(seed) for seed in range(asked.seed, asked.seed + asked.trials)]
        for verdict in trials.run_all(specs, asked.side_by_side):
            wrong += bool(verdict.faults)
            kinds[verdict.spec["kind"]] += 1
            points.update(entry.split(" at ")[1] for entry in verdict.struck)
            done = [r for r in verdict.results.values() if r["end"] == "done"]
            moved += max((r["moved"] for r in done), default=0)
            restored += max((len(r["restored"]) for r in done), default=0)
            fenced += sum(r["end"] == "fenced" for r in verdict.results.values())
            detected += [s["detected"] for r in done for s in r["seconds"]]
            if verdict.faults or asked.verbose:
                print(
                    f"{verdict.text} [{verdict.seconds:.1f} s; {', '.join(verdict.struck)}]",
                    flush=True,
                )
            if sum(kinds.values()) % EVERY == 0:
                passed = time.monotonic() - began
                print(f"{sum(kinds.values())} trials, {passed:.0f} s, {wrong} wrong", flush=True)
        verdict = trials.run(steps_spec(STEPS), 900.0)
        wrong += bool(verdict.faults)
        steps = min((r.get("steps", 0) for r in verdict.results.values()), default=0)
        print(
            f"two maps in one step: never in {steps} steps" if not verdict.faults else verdict.text
        )
    finally:
        trials.close()
    took = time.monotonic() - began
    print(
        f"{sum(kinds.values())} trials in {took:.0f} s, {wrong} wrong; {moved} experts moved, "
        f"{restored} restored, {fenced} ranks fenced"
    )
    print("kinds:", ", ".join(f"{k} {n}" for k, n in sorted(kinds.items())))
    print("struck at:", ", ".join(f"{k} {n}" for k, n in sorted(points.items())))
    if detected:
        detected.sort()
        print(
            f"agreed on who is left after {detected[len(detected) // 2]:.2f} s (median), "
            f"{detected[-1]:.2f} s (most)"
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
