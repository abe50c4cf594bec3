"""``evenload completion``: what makes a shell complete commands and options."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace

from evenload.checks import one_of

EXAMPLES = """
Examples:
  eval "$(evenload completion bash)"
  evenload completion fish > ~/.config/fish/completions/evenload.fish
"""

OPTIONS = {"arguments": {"SHELL": "bash, zsh or fish."}}

_BASH = """_evenload() {{
  local words
  if [ "$COMP_CWORD" -eq 1 ]; then
    words={commands}
  else
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -o bashdefault -F _evenload evenload
"""
_ZSH = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n"


def _bash(options: dict[str, dict[str, bool]]) -> str:
    cases = [f"      {name}) words={shlex.quote(' '.join(of))} ;;" for name, of in options.items()]
    return _BASH.format(commands=shlex.quote(" ".join(options)), cases="\n".join(cases))


def _fish(options: dict[str, dict[str, bool]]) -> str:
    lines = [f"complete -c evenload -n __fish_use_subcommand -f -a {name}" for name in options]
    for command, known in options.items():
        seen = f"complete -c evenload -n '__fish_seen_subcommand_from {command}'"
        for option, value in known.items():
            kind = "-l" if option.startswith("--") else "-s"
            lines.append(f"{seen} {kind} {option.lstrip('-')}{' -r' if value else ''}")
    return "\n".join(lines) + "\n"


def run(args: Namespace) -> None:
    """Print a script that makes a shell complete commands and options.

    Other words are completed as names of files. The script for bash is tested; those for zsh and
    fish have not been run.
    """
    from evenload.cli import COMMANDS, parser_of

    shell = one_of("SHELL", args.shell, ("bash", "zsh", "fish"))
    options = {
        command: {
            option: action.nargs != 0
            for action in parser_of(command)._actions
            for option in action.option_strings
        }
        for command in COMMANDS
    }
    script = _fish(options) if shell == "fish" else _bash(options)
    sys.stdout.write(_ZSH + script if shell == "zsh" else script)
