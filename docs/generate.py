"""Regenerate what the docs show: the command reference and the picture of the demo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from evenload.formats import atomic_write

DOCS = Path(__file__).parent
COMMANDS = (
    "",
    "plan",
    "evaluate",
    "convert",
    "inspect",
    "replay",
    "report",
    "sweep",
    "demo",
    "warmup",
)


def _help_of(command: str) -> str:
    arguments = [sys.executable, "-m", "evenload", *command.split(), "--help"]
    environment = os.environ | {"COLUMNS": "80"}
    run = subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment)
    return run.stdout.rstrip()


def command_reference() -> str:
    """Return the Markdown of the command reference."""
    parts = ["# The command line", "", "Written by `make docs` from the commands' own help."]
    for command in COMMANDS:
        name = f"evenload {command}".rstrip()
        parts += ["", f"## `{name}`", "", "```text", _help_of(command), "```"]
    return "\n".join(parts) + "\n"


def main() -> None:
    """Write the reference and the picture."""
    with atomic_write(DOCS / "cli.md") as file:
        file.write(command_reference().encode())
    figure = DOCS / "figures" / "demo.png"
    figure.parent.mkdir(exist_ok=True)
    subprocess.run([sys.executable, "-m", "evenload", "demo", "--plot", str(figure)], check=True)


if __name__ == "__main__":
    main()
