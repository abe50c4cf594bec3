"""``evenload completion``: what makes a shell complete commands and options."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace

from evenload.checks import one_of

EXAMPLES = """
Examples:
  eval "$(evenload completion bash)"
  eval "$(evenload completion zsh)"
  evenload completion fish > ~/.config/fish/completions/evenload.fish
"""

OPTIONS = {"arguments": {"SHELL": "bash, zsh or fish."}}

_BASH = """\
_evenload() {{
  local known= word="${{COMP_WORDS[COMP_CWORD]}}"
  if [ "$COMP_CWORD" -eq 1 ]; then
    known={first}
  elif [ "${{word:0:1}}" = - ]; then
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$known" -- "$word"))
}}
complete -o default -o bashdefault -F _evenload evenload
"""

# zsh does not take an option and the value behind its `=` for two words. Where nobody has started
# its completion, -i leaves folders out that others may write to; without it zsh would ask.
_ZSH = """\
_evenload() {{
  local known=
  if [ "$CURRENT" -eq 2 ]; then
    known={first}
  elif [ "${{PREFIX[1]}}" = - ] && ! compset -P '*='; then
    case "${{words[2]}}" in
{cases}
    esac
  else
    _files
  fi
  compadd -- ${{=known}}
}}
(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit -i }}
compdef _evenload evenload
"""


def _fish(top: dict[str, bool], options: dict[str, dict[str, bool]]) -> str:
    first = "complete -c evenload -n __fish_use_subcommand -f"
    lines = [f"{first} -a {command}" for command in options]
    lines += [f"{first} -l {option[2:]}" for option in top if option.startswith("--")]
    for command, known in options.items():
        seen = f"complete -c evenload -n '__fish_seen_subcommand_from {command}'"
        for option, value in known.items():
            kind = "-l" if option.startswith("--") else "-s"
            lines.append(f"{seen} {kind} {option.lstrip('-')}{' -r' if value else ''}")
    return "\n".join(lines) + "\n"


def run(args: Namespace) -> None:
    """Print a script that makes a shell complete commands and options.

    Other words are completed as names of files.
    """
    from evenload.cli import COMMANDS, parser_of

    shell = one_of("SHELL", args.shell, ("bash", "zsh", "fish"))
    top, *of_commands = (
        {
            option: action.nargs != 0
            for action in parser_of(command)._actions
            for option in action.option_strings
        }
        for command in (None, *COMMANDS)
    )
    options = dict(zip(COMMANDS, of_commands, strict=True))
    if shell == "fish":
        script = _fish(top, options)
    else:
        words = {command: shlex.quote(" ".join(known)) for command, known in options.items()}
        script = (_BASH if shell == "bash" else _ZSH).format(
            first=shlex.quote(" ".join([*options, *top])),
            cases="\n".join(
                f"      {command}) known={known} ;;" for command, known in words.items()
            ),
        )
    sys.stdout.write(script)
