"""What the joint search is wanted to reach: floors of quality and ceilings of time."""

from dataclasses import dataclass

CEILINGS = {"joint fast": 3.0, "joint standard": 20.0}  # times local-search in the same run


@dataclass(frozen=True)
class Floor:
    """Least mean balancedness, or most mean distance to the bound.

    Attributes
    ----------
    least : float
        Balancedness; -1 where only the distance counts.
    within : float
        Distance to the bound; 1 where only the balancedness counts.
    """

    least: float = -1.0
    within: float = 1.0


FLOORS = {
    "288/32 lognormal 1.0": Floor(least=0.9995),
    "288/32 calibrated": Floor(least=0.999),
    "320/64 lognormal 1.0": Floor(least=0.998),
    "288/96 lognormal 0.5": Floor(least=0.998),
    "288/96 lognormal 1.0": Floor(least=0.995),
    "288/144 lognormal 0.5": Floor(least=0.970),
    "320/160 lognormal 0.5": Floor(least=0.990),
    "320/160 lognormal 1.0": Floor(least=0.947),
    "strict 288/144 lognormal 0.5": Floor(least=0.925),
    "strict 288/144 lognormal 1.0": Floor(least=0.70),
    "strict 288/32 lognormal 0.5": Floor(within=0.004),
    "strict 288/32 lognormal 1.0": Floor(within=0.004),
    "strict 288/32 calibrated": Floor(within=0.004),
    "288/96 zipf 1.0": Floor(within=0.01),
    "288/144 zipf 1.0": Floor(within=0.01),
    "320/160 zipf 1.0": Floor(within=0.01),
}


def quality(case: str, balancedness: float, bound: float) -> str:
    """Say whether the floor of a case is met, and by how much not; empty where there is none."""
    floor = FLOORS.get(case)
    if floor is None:
        return ""
    if floor.least < 0.0:
        what, missing = f"bound - {floor.within:g}", bound - floor.within - balancedness
    else:
        what, missing = f"{floor.least:g}", floor.least - balancedness
    if missing <= 0.0:
        return f">= {what}: pass"
    beyond = f", beyond the bound {bound:.5f}" if bound < floor.least else ""
    return f">= {what}: falls short by {missing:.5f}{beyond}"


def speed(solver: str, ratio: float) -> str:
    """Say whether the ceiling of a solver's time is kept; empty where there is none."""
    ceiling = CEILINGS.get(solver)
    if ceiling is None:
        return ""
    kept = "pass" if ratio <= ceiling else f"falls short by {ratio - ceiling:.1f}x"
    return f"<= {ceiling:g}x: {kept}"
