"""The answer in a few sentences: which policy reached what, at which price, and which one pays."""

from __future__ import annotations

from collections.abc import Sequence

from evenload.report.digits import down, percent_down, percent_up, up
from evenload.report.page.score import Score

OURS = "evenload"
_PUBLISHED = "deepseek"


def hero(scores: Sequence[Score]) -> int:
    """Return which policy the answer is about: ours if there, else the one that takes least time.

    Of several of ours it is the one that takes least time.
    """
    ours = [i for i, score in enumerate(scores) if score.name.startswith(OURS)]
    return min(ours or range(len(scores)), key=lambda i: scores[i].seconds)


def reference(scores: Sequence[Score], chosen: int) -> Score | None:
    """Return what its moves are counted in: DeepSeek's, else who moves most; None if nobody moves.

    Another policy of ours is no reference, unless there is nothing else.
    """
    others = [s for i, s in enumerate(scores) if i != chosen and s.moves]
    foreign = [s for s in others if not s.name.startswith(OURS)] or others
    published = [s for s in foreign if s.name.startswith(_PUBLISHED)]
    return max(published or foreign, key=lambda s: s.moves, default=None)


def _reached(score: Score, other: Score | None) -> str:
    of = "" if score.oracle is None else f" of the oracle's {down(score.oracle, 3)}"
    text = f"{score.name} reached a balancedness of {down(score.balancedness, 3)}{of}"
    if not score.moves:
        return f"{text} without moving an expert."
    if other is None:
        return f"{text} with {score.moves:,} experts moved."
    share = score.moves / other.moves
    part = f"{100 * share:.0f}%" if share >= 0.1 else f"{100 * share:.1f}%"
    return (
        f"{text}, with {part} of the moves of {other.name}, "
        f"which reached {down(other.balancedness, 3)}."
    )


def _paid(score: Score) -> str | None:
    if not score.rebalances:
        return None
    if score.rebalances == 1:
        return f"Its one rebalance {'paid' if score.paid else 'did not pay'} for itself."
    return f"Rebalancing paid for itself in {score.paid:,} of {score.rebalances:,} cases."


def _fastest(scores: Sequence[Score], start_seconds: float) -> str:
    best = min(scores, key=lambda s: s.seconds)
    gain = 1.0 - best.seconds / start_seconds
    if gain <= 0.0:
        loss = f"{percent_up(-gain, 1)} more" if gain else "just as much"
        return (
            "Moving included, no policy took less time than keeping the starting placement would "
            f"have; the best, {best.name}, took {loss}."
        )
    return (
        f"Moving included, {best.name} took the least time: "
        f"{percent_down(gain)} less than with the starting placement kept."
    )


def answer(scores: Sequence[Score], start_seconds: float) -> str:
    """Return the paragraph at the top of the page.

    Parameters
    ----------
    scores : sequence of Score
        At least one.
    start_seconds : float
        Time that the starting placement would have taken.
    """
    chosen = hero(scores)
    sentences = [
        _reached(scores[chosen], reference(scores, chosen)),
        _paid(scores[chosen]),
        _fastest(scores, start_seconds),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def regret(score: Score) -> str | None:
    """Show how far below the oracle a policy stayed."""
    return None if score.oracle is None else up(score.oracle - score.balancedness, 4)
