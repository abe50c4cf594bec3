"""Whether an engine's function still takes the arguments that a hook of ours hands on to it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def what_differs(
    name: str, function: Callable[..., Any] | None, hook: Callable[..., Any], given: int
) -> str:
    """Say why a function of an engine does not fit a hook; an empty text if it does.

    The hook's first `given` arguments are ours. The function has to take those after them by the
    same names, in the same order, and no others; where the hook has ``*args`` or ``**kwargs``, any
    others may follow. A `function` of None is one that this release does not have.
    """
    if function is None:
        return f"this release has no {name}"
    try:
        takes = _plain(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return f"{name} is {function!r}, whose arguments cannot be told"
    ours = list(inspect.signature(hook).parameters.values())[given:]
    wanted = _plain(p for p in ours if p.kind not in OPEN)
    compared = takes if len(wanted) == len(ours) else takes[: len(wanted)]
    if compared == wanted:
        return ""
    return f"{name} takes {_text(takes)}, and evenload hands on {_text(wanted)}"


def _plain(parameters: Any) -> list[inspect.Parameter]:
    """Drop defaults and annotations: they say nothing of how a function is called."""
    return [inspect.Parameter(p.name, p.kind) for p in parameters]


def _text(parameters: list[inspect.Parameter]) -> str:
    return str(inspect.Signature(parameters))
