"""The command line: parse, call, print. One command a file; heavy imports wait for the command."""

from __future__ import annotations

from typing import Annotated

import typer

from evenload import __version__
from evenload.cli.convert import convert
from evenload.cli.demo import demo
from evenload.cli.evaluate import evaluate
from evenload.cli.failures import reported
from evenload.cli.inspect import inspect
from evenload.cli.plan import plan
from evenload.cli.replay import replay
from evenload.cli.report import report
from evenload.cli.sweep import sweep
from evenload.cli.warmup import warmup

__all__ = ["app", "main"]

# \b keeps the lines as they are.
_EPILOG = """\b
Results go to stdout, everything else to stderr.
Exit codes:
  0    all went well
  1    something failed inside evenload
  2    wrong usage, or input or output files that do not work
  130  interrupted"""

app = typer.Typer(
    name="evenload",
    help="Decide on which GPU every expert of a Mixture-of-Experts model lives.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (plan, evaluate, convert, inspect, replay, report, sweep, demo, warmup):
    app.command(epilog=_EPILOG)(reported(_command))


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"evenload {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; what the installed command ``evenload`` calls."""
    app(prog_name="evenload")
