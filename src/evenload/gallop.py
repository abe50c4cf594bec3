"""The smallest number that passes a costly test, found without testing all of them."""

from __future__ import annotations

from collections.abc import Callable

ALL_OF_THE_FIRST = 16


def smallest_passing(passes: Callable[[int], bool], first: int, last: int) -> int | None:
    """Return the smallest number from `first` to `last` that passes, None if none does.

    The first 16 are tested one by one. Beyond, steps double until a number passes, and the interval
    since the last one that failed is halved (Bentley and Yao 1976): numbers between two that fail
    are taken to fail too. Where the largest fails, nothing is taken for granted and all the rest
    are tested.

    Parameters
    ----------
    passes : callable
        Called at most once for each number.
    first, last : int
        At least one number.
    """
    tested: set[int] = set()

    def test(number: int) -> bool:
        tested.add(number)
        return passes(number)

    for number in range(first, min(first + ALL_OF_THE_FIRST, last + 1)):
        if test(number):
            return number
    failed, step = number, 1
    while failed < last:
        number = min(failed + step, last)
        if test(number):
            return _halve(test, failed, number)
        failed, step = number, 2 * step
    rest = (number for number in range(first, last) if number not in tested)
    return next((number for number in rest if test(number)), None)


def _halve(test: Callable[[int], bool], failed: int, passed: int) -> int:
    while passed - failed > 1:
        middle = (failed + passed) // 2
        if test(middle):
            passed = middle
        else:
            failed = middle
    return passed
