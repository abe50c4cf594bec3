"""Completion in real shells, each at a pseudo terminal: what is typed, Tab, Return."""

import os
import re
import select
import shutil
import subprocess
import sys
import time

import pytest
from command import fails, run

# The shell has a terminal of its own; this process talks to it through pipes.
_AT_A_TERMINAL = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]))"
_PATIENCE = 60.0  # seconds until a shell that does not answer counts as broken
_SHELLS = {
    "bash": (
        ["bash", "--norc", "--noprofile"],
        "evenload() { printf 'got'; printf ' <%s>' \"$@\"; echo ' end'; }\n",
    ),
    "zsh": (
        ["zsh", "-f"],
        "evenload() { printf 'got'; printf ' <%s>' \"$@\"; echo ' end'; }\n",
    ),
    "fish": (
        ["fish", "--no-config"],
        "function evenload; printf 'got'; printf ' <%s>' $argv; echo ' end'; end\n",
    ),
}
_TYPED = {
    "pl": "<plan>",
    "measure-e": "<measure-expert-time>",
    "--vers": "<--version>",
    "plan --gp": "<plan> <--gpus>",
    "plan trace.npz --survive-": "<plan> <trace.npz> <--survive-count>",
    "replay --warm": "<replay> <--warm-start>",
    "plan tra": "<plan> <trace.npz>",
    "plan my": "<plan> <my loads.csv>",
    "plan trace.npz -o pla": "<plan> <trace.npz> <-o> <placement.json>",
    "plan --output pla": "<plan> <--output> <placement.json>",
    "plan --output=pla": "<plan> <--output=placement.json>",
    "plan --format npz tra": "<plan> <--format> <npz> <trace.npz>",
    "plan ": "<plan>",  # files, of which there are several: options would begin with a dash
}


class Shell:
    """An interactive shell in a folder with three files."""

    def __init__(self, command, folder):
        for name in ("trace.npz", "placement.json", "my loads.csv"):
            (folder / name).touch()
        home = {"HOME": str(folder / "home"), "ZDOTDIR": str(folder / "home"), "TERM": "xterm"}
        (folder / "home").mkdir()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _AT_A_TERMINAL, *command], cwd=folder, env=os.environ | home,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
        )  # fmt: skip

    def answer(self, typed, pattern):
        """What the shell prints for what is typed at a prompt that is waiting."""
        self._printed(lambda _: False, quiet=0.3)
        self.process.stdin.write(typed.encode())
        printed = self._printed(lambda text: re.search(pattern, text))
        assert re.search(pattern, printed), f"{typed!r}: {printed!r}"
        return re.search(pattern, printed)[0]

    def _printed(self, enough, quiet=_PATIENCE):
        text, end = "", time.monotonic() + _PATIENCE
        while not enough(text) and time.monotonic() < end:
            if not select.select([self.process.stdout], [], [], quiet)[0]:
                break
            read = os.read(self.process.stdout.fileno(), 65536)
            if not read:
                break
            text += read.decode(errors="replace")
        return text


@pytest.fixture
def shell_of(tmp_path):
    started = []

    def start(command):
        started.append(Shell(command, tmp_path))
        return started[-1]

    yield start
    for shell in started:
        shell.process.kill()
        shell.process.communicate()


@pytest.mark.parametrize("name", _SHELLS)
def test_a_shell_completes_commands_options_and_files(name, tmp_path, shell_of):
    command, stub = _SHELLS[name]
    if shutil.which(name) is None:
        pytest.skip(f"needs {name} (on Debian: apt-get install {name})")
    script = run("completion", name)
    assert script.exit_code == 0, script.stderr
    (tmp_path / "script").write_text(f"{stub}{script.stdout}echo rea''dy\n")
    shell = shell_of(command)
    shell.answer("source ./script\r", "ready")
    completed = {}
    for typed in _TYPED:
        answer = shell.answer(f"evenload {typed}\t\r", "got[^\r\n]*end")
        completed[typed] = answer.removeprefix("got ").removesuffix(" end")
    assert completed == _TYPED


def test_an_unknown_shell_is_refused():
    fails("completion", "tcsh", error="SHELL='tcsh' is unknown; use one of: bash, zsh, fish")
