"""The command line: parse, call, print. One command a file; heavy imports wait for the command."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from evenload import __version__
from evenload.cli.shared import say

__all__ = ["COMMANDS", "main", "parser_of"]

COMMANDS = ("plan", "evaluate", "convert", "inspect", "replay", "report", "sweep", "demo", "warmup")

_BAD_INPUT, _BROKEN_PIPE, _INTERRUPTED = 2, 1, 130

_EPILOG = """
Results go to stdout, everything else to stderr.

Exit codes:
  0    all went well
  1    something failed inside evenload
  2    wrong usage, or input or output files that do not work
  130  interrupted
"""


class _Help(argparse.HelpFormatter):
    """Help in the same words on every version of Python: wrapped paragraphs, lists as they are."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size().columns, 100) - 2
        super().__init__(prog, max_help_position=26, width=width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        first, _, rest = text.strip().partition("\n")
        paragraphs = f"{first}\n{textwrap.dedent(rest)}".split("\n\n")
        return "\n\n".join(
            p if "\n  " in p else "\n".join(self._split_lines(p, width)) for p in paragraphs
        )

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.option_strings and action.required:
            return f"{text}  [required]"
        shown = action.option_strings and action.default not in (None, False, argparse.SUPPRESS)
        return f"{text}  [default: %(default)s]" if shown else text

    def _format_action_invocation(self, action: argparse.Action) -> str:
        names = ", ".join(action.option_strings)
        return f"{names} {action.metavar or ''}".strip()


class Parser(argparse.ArgumentParser):
    """A parser with our help, whose complaints are one sentence."""

    def __init__(self, prog: str, description: str, epilog: str) -> None:
        how: dict[str, Any] = {"formatter_class": _Help, "allow_abbrev": False, "add_help": False}
        super().__init__(prog, description=description, epilog=epilog, **how)
        self._positionals.title = "arguments"
        self.add_argument("-h", "--help", action="help", help="Show this message and exit.")

    def format_usage(self) -> str:
        """Return one line; what there is to choose from stands below it."""
        values = [str(a.metavar) for a in self._actions if not a.option_strings]
        return f"Usage: {' '.join([self.prog, '[OPTIONS]', *values])}\n"

    def format_help(self) -> str:
        """Return usage, description, arguments, options by topic, and examples."""
        formatter = self._get_formatter()
        formatter.add_text(self.description)
        positionals, options, *topics = self._action_groups
        for group in (positionals, *topics, options):
            formatter.start_section(group.title)
            formatter.add_arguments(group._group_actions)
            formatter.end_section()
        formatter.add_text(self.epilog)
        return f"{self.format_usage()}\n{formatter.format_help()}"

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the usage, and exit."""
        self.exit(_BAD_INPUT, f"{self.format_usage()}error: {message}; see {self.prog} --help\n")


def parser_of(command: str | None) -> Parser:
    """Return the parser of a command, or of ``evenload`` itself for None.

    The module of a command has `arguments`, which adds its options, `run`, which takes what was
    parsed and whose docstring is the help, and optionally `EXAMPLES`.
    """
    if command is not None:
        module = import_module(f"evenload.cli.{command}")
        examples = getattr(module, "EXAMPLES", "")
        parser = Parser(f"evenload {command}", module.run.__doc__, examples + _EPILOG)
        module.arguments(parser)
        parser.set_defaults(run=module.run)
        return parser
    about = "Decide on which GPU every expert of a Mixture-of-Experts model lives.\n\nCommands:"
    for name in COMMANDS:
        summary = import_module(f"evenload.cli.{name}").run.__doc__.partition("\n")[0]
        about += f"\n  {name:8}  {summary}"
    parser = Parser("evenload", about, _EPILOG)
    version = f"evenload {__version__}"
    parser.add_argument("--version", action="version", version=version, help="Show the version.")
    parser.add_argument("command", metavar="COMMAND", help=argparse.SUPPRESS)
    return parser


def _parse(given: Sequence[str]) -> argparse.Namespace:
    if given and given[0] in COMMANDS:
        return parser_of(given[0]).parse_intermixed_args(given[1:])
    parser = parser_of(None)
    if given:
        unknown = parser.parse_args(given[:1]).command
        parser.error(f"{unknown!r} is not a command; use one of: {', '.join(COMMANDS)}")
    parser.print_help(sys.stderr)
    sys.exit(_BAD_INPUT)


def _sentence(error: ValueError | OSError) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror[:1].lower() + error.strerror[1:]
        if error.filename is not None:
            text = f"{error.filename}: {text}"
    return " ".join(text.split())


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line.

    What the user can mend, a `ValueError` or `OSError`, becomes one sentence on stderr; any other
    exception is ours, and stays a traceback.

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
        parsed.run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on, as in `evenload plan ... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        say("interrupted")
        return _INTERRUPTED
    except (ValueError, OSError) as error:
        say(f"error: {_sentence(error)}")
        return _BAD_INPUT
    return 0
