"""Facts about one file, for people and as plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

_FEW = 5


@dataclass(frozen=True)
class Facts:
    """What was found out about a file.

    Parameters
    ----------
    title : str
        What it is, in one line.
    rows : sequence of (str, str)
        Names and figures, as people read them.
    odd : sequence of str
        What is odd in it, one sentence each.
    lines : sequence of str
        What the figures mean.
    plain : dict
        The same as plain numbers, strings and lists.
    """

    title: str
    rows: Sequence[tuple[str, str]]
    odd: Sequence[str]
    lines: Sequence[str]
    plain: dict[str, Any]


def some(numbers: Sequence[int]) -> str:
    """Return the first of many numbers, as ``0, 1, 2, 3, 4, ...``."""
    shown = ", ".join(str(n) for n in numbers[:_FEW])
    return f"{shown}, ..." if len(numbers) > _FEW else shown


def counted(number: int, word: str) -> str:
    """Return a number with its word, as ``1 layer`` or ``2 layers``."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def print_facts(facts: Facts, file: IO[str]) -> None:
    """Print title, table, what is odd and what the figures mean; coloured on a terminal only."""
    console = Console(file=file, highlight=False, markup=False, emoji=False)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, show_header=False)
    table.add_column("", no_wrap=True)
    table.add_column("", style="bold")
    for name, figure in facts.rows:
        table.add_row(Text(name), Text(figure))
    console.print(Text(facts.title, style="bold"), soft_wrap=True)
    console.print()
    console.print(table)
    console.print()
    for sentence in facts.odd or ["nothing odd was found"]:
        head = "odd: " if facts.odd else ""
        console.print(Text(head + sentence), soft_wrap=True)
    for line in facts.lines:
        console.print(Text(line, style="dim"), soft_wrap=True)
