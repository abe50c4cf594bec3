"""Regenerate what the docs show: commands, the picture of the demo, examples and knobs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from evenload.formats import atomic_write

DOCS = Path(__file__).parent
ENGINES = DOCS / "engines"
LANGUAGES = {".sh": "shell", ".py": "python", ".yaml": "yaml"}
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


def knob_table() -> str:
    """Return all that can be set on the plug-ins, as Markdown."""
    from evenload.plugins.settings import KNOBS

    rows = ["| variable | default | meaning |", "| :-- | :-- | :-- |"]
    for knob in KNOBS:
        default = "" if knob.default in (None, "") else f"`{_said(knob.default)}`"
        rows.append(f"| `{knob.variable}` | {default} | {knob.meaning} |")
    return "\n".join(rows)


def _said(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def engine_page(path: Path) -> str:
    """Return a page on an engine with its examples, copied from their files, and the knobs."""
    page = path.read_text(encoding="utf-8")
    page = re.sub(
        r"(<!-- (examples/\S+) -->)(\n+```\w+\n.*?```)?",
        lambda found: f"{found[1]}\n\n{_block(path.parent / found[2])}",
        page,
        flags=re.DOTALL,
    )
    return re.sub(
        r"<!-- knobs -->.*?<!-- end -->",
        lambda _: f"<!-- knobs -->\n\n{knob_table()}\n\n<!-- end -->",
        page,
        flags=re.DOTALL,
    )


def _block(example: Path) -> str:
    text = example.read_text(encoding="utf-8").rstrip()
    return f"```{LANGUAGES[example.suffix]}\n{text}\n```"


def main() -> None:
    """Write the reference, the pages on engines and the picture."""
    for page in sorted(ENGINES.glob("*.md")):
        filled = engine_page(page)
        with atomic_write(page) as file:
            file.write(filled.encode())
    with atomic_write(DOCS / "cli.md") as file:
        file.write(command_reference().encode())
    figure = DOCS / "figures" / "demo.png"
    figure.parent.mkdir(exist_ok=True)
    subprocess.run([sys.executable, "-m", "evenload", "demo", "--plot", str(figure)], check=True)


if __name__ == "__main__":
    main()
