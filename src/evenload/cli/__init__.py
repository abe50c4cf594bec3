"""The command line: parse, call, print. One command a file; heavy imports wait for the command."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from inspect import cleandoc
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from evenload import __version__
from evenload.checks import nearest, printable
from evenload.cli.inputs import reading
from evenload.cli.output import folded_notes, say

__all__ = ["COMMANDS", "main", "parser_of"]

COMMANDS = (
    "plan", "evaluate", "convert", "inspect", "replay", "report", "sweep", "size", "demo", "warmup",
    "doctor", "measure-expert-time", "reorder", "completion",
)  # fmt: skip

_FILES = ("FILE", "FOLDER", "IN", "OUT", "LOADS", "TRACE", "PLACEMENT", "REPLAYS", "CHECKPOINT")
_WHOLE, _REAL = ("G", "GPU", "M", "N", "R", "S"), ("B", "P", "X")


def _number(text: str, kind: type[int] | type[float], what: str) -> int | float:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None


_TYPES: dict[str, Any] = {
    **dict.fromkeys(_FILES, Path),
    **dict.fromkeys(_WHOLE, partial(_number, kind=int, what="a whole number; use e.g. 8")),
    **dict.fromkeys(_REAL, partial(_number, kind=float, what="a number; use e.g. 0.5")),
}

_BAD_INPUT, _BROKEN_PIPE = 2, 1

# What argparse says, and how it is told here.
_SAID = (
    ("the following arguments are required: (.*)", r"missing \1"),
    ("argument (.+?)(?:/-.*)?: expected one argument", r"\1 needs a value"),
    ("argument (.+?)(?:/-.*)?: ignored explicit argument (.*)", r"\1 takes no value; leave \2 out"),
    ("argument (.+?)(?:/-.*)?: (.*)", r"\1: \2"),
    ("unrecognized arguments: (.*)", r"\1 is unknown"),
)

_EXAMPLES = """
Examples:
  evenload demo
  evenload plan trace.npz --gpus 32 --nodes 4 --slots 288 -o placement.json
  evenload plan --help
"""

_EPILOG = """
Results go to stdout, everything else to stderr.

Exit codes:
  0    all went well
  1    something failed inside evenload
  2    wrong usage, or input or output files that do not work
  130  interrupted
"""


def _names(action: argparse.Action) -> str:
    return f"{', '.join(action.option_strings)} {action.metavar or ''}".strip()


def _explained(action: argparse.Action) -> str:
    if action.option_strings and action.required:
        return f"{action.help} Required."
    shown = action.option_strings and action.default not in (None, False, argparse.SUPPRESS)
    return f"{action.help} Default: {action.default}." if shown else str(action.help)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


def _paragraphs(text: str, width: int) -> str:
    """Wrap paragraphs, and leave lists as they are."""
    parts = cleandoc(text).split("\n\n")
    return "\n\n".join(p if "\n  " in p else "\n".join(_wrapped(p, width)) for p in parts)


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one sentence, and whose help is the same on every Python."""

    def __init__(self, prog: str, description: str, epilog: str) -> None:
        how: dict[str, Any] = {"allow_abbrev": False, "add_help": False}
        super().__init__(prog, description=description, epilog=epilog, **how)
        self._positionals.title = "arguments"
        self.add_argument("-h", "--help", action="help", help="Show this message and exit.")

    def format_usage(self) -> str:
        """Return one line; what there is to choose from stands below it."""
        values = [str(a.metavar) for a in self._actions if not a.option_strings]
        return f"Usage: {' '.join([self.prog, '[OPTIONS]', *values])}\n"

    def format_help(self) -> str:
        """Return usage, description, arguments, options by topic, and examples."""
        width = min(shutil.get_terminal_size().columns, 100) - 2
        positionals, options, *topics = self._action_groups
        column = min(26, 4 + max(len(_names(action)) for action in self._actions))
        blocks = [self.format_usage().rstrip(), _paragraphs(self.description or "", width)]
        for group in (positionals, *topics, options):
            lines = [f"{group.title}:"]
            for action in group._group_actions:
                if action.help != argparse.SUPPRESS:
                    first, *rest = _wrapped(_explained(action), max(11, width - column))
                    head = f"  {_names(action):{column - 4}}  "
                    lines += [head + first] if len(head) == column else [head, " " * column + first]
                    lines += [" " * column + line for line in rest]
            if len(lines) > 1:
                blocks.append("\n".join(line.rstrip() for line in lines))
        return "\n\n".join([*blocks, _paragraphs(self.epilog or "", width)]) + "\n"

    def refuse_unknown(self, given: Sequence[str]) -> None:
        """Complain of an option that is not known: argparse tells of a missing one before it."""
        known = self._option_string_actions
        for word in takewhile(lambda word: word != "--", given):
            option = word.partition("=")[0]
            attached = option[1:2] != "-" and option[:2] in known  # -oFILE
            value = option[1:2] in ("", *"0123456789.") or " " in option  # -, -1, or a sentence
            if option[:1] != "-" or option in known or attached or value:
                continue
            near = difflib.get_close_matches(option.lower(), known, 1, 0.7)
            self.error(f"{option} is not an option{f'; use {near[0]}' if near else ''}")

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the usage in our own words, not argparse's, and exit."""
        for theirs, ours in _SAID:
            message = re.sub(f"^{theirs}$", ours, message)
        told = f"error: {printable(message)}; see {self.prog} --help\n"
        self.exit(_BAD_INPUT, self.format_usage() + told)


def _add(group: argparse._ActionsContainer, usage: str, text: str) -> None:
    """Add an option or argument from its usage, as ``-o, --output FILE``, ``--json``, or ``LOADS``.

    The word in capitals says the type, see `_TYPES`; an option without it is a switch. Behind it
    stand ``*`` if several may be given, ``!`` if one has to be, ``?`` behind an argument that may
    be left out, and ``:1`` for a default.
    """
    names, _, word = usage.rpartition(" ")
    if usage.startswith("--") and not names:
        group.add_argument(usage, action="store_true", help=text)
        return
    word, _, default = word.partition(":")
    metavar, several = word.rstrip("*!?"), "*" in word
    how: dict[str, Any] = {"metavar": metavar, "type": _TYPES.get(metavar, str), "help": text}
    if names:
        how |= {"action": "append" if several else "store", "required": "!" in word}
        group.add_argument(*names.split(", "), default=default or None, **how)
    else:
        many = "+" if several else "?" if "?" in word else None
        how["metavar"] = {"+": f"{metavar}...", "?": f"[{metavar}]"}.get(str(many), metavar)
        group.add_argument(metavar.lower(), nargs=many, **how)


def _module(command: str) -> ModuleType:
    return import_module(f"evenload.cli.{command.replace('-', '_')}")


def parser_of(command: str | None) -> Parser:
    """Return the parser of a command, or of ``evenload`` itself for None.

    The module of a command has `run`, which takes what was parsed, may return an exit code, and
    whose docstring is the help; and optionally `EXAMPLES`, and `OPTIONS`: by title, usages as
    `_add` reads them, and their help.
    """
    if command is not None:
        module = _module(command)
        examples = getattr(module, "EXAMPLES", "")
        parser = Parser(f"evenload {command}", module.run.__doc__, examples + _EPILOG)
        for title, options in getattr(module, "OPTIONS", {}).items():
            arguments = title == "arguments"
            group = parser._positionals if arguments else parser.add_argument_group(title)
            for usage, text in options.items():
                _add(group, usage, text)
        _add(parser, "--verbose", "Print every note, not only the first.")
        parser.set_defaults(run=module.run)
        return parser
    about = "Decide on which GPU every expert of a Mixture-of-Experts model lives.\n\nCommands:"
    for name in COMMANDS:
        summary = _module(name).run.__doc__.partition("\n")[0]
        about += f"\n  {name:8}  {summary}"
    parser = Parser("evenload", about, _EXAMPLES + _EPILOG)
    how: dict[str, Any] = {"action": "version", "version": f"evenload {__version__}"}
    parser.add_argument("-V", "--version", help="Show the version.", **how)
    parser.add_argument("command", metavar="COMMAND", nargs="?", help=argparse.SUPPRESS)
    return parser


def _parse(given: Sequence[str]) -> argparse.Namespace:
    if given and given[0] in COMMANDS:
        parser = parser_of(given[0])
        parser.refuse_unknown(given[1:])
        return parser.parse_intermixed_args(given[1:])
    parser = parser_of(None)
    if given:
        behind = [word for word in given if word in COMMANDS]
        if behind and given[0][:1] == "-" and given[0] not in parser._option_string_actions:
            parser.error(f"{given[0]} is before the command; use evenload {behind[0]} {given[0]}")
        parser.refuse_unknown(given[:1])
        unknown = parser.parse_args(given[:1]).command
        parser.error(f"{unknown!r} is not a command; {nearest(unknown, COMMANDS)}")
    parser.print_help(sys.stderr)
    sys.exit(_BAD_INPUT)


def _sentence(error: ValueError | OSError) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror[:1].lower() + error.strerror[1:]
        if error.filename is not None:
            text = f"{printable(str(error.filename))}: {text}"
    return " ".join(text.split())


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line.

    What the user can mend, a `ValueError` or `OSError`, becomes one sentence on stderr; any other
    exception is ours, and stays a traceback. An interrupt is left to the caller.

    Parameters
    ----------
    given : sequence of str, optional
        Default: the arguments of this process.

    Returns
    -------
    int
        The exit code.
    """
    try:
        parsed = _parse(sys.argv[1:] if given is None else given)
        with folded_notes(parsed.verbose), reading(parsed):
            code = parsed.run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on, as in `evenload plan ... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except (ValueError, OSError) as error:
        say(f"error: {_sentence(error)}")
        return _BAD_INPUT
    return int(code or 0)
