"""Runs the command line: in this process, or as a program of its own."""

import contextlib
import io
import subprocess
import sys
from dataclasses import dataclass

from evenload.cli import main

# Seconds for loads of any shape.
PRICED = ("--hardware", "h100-ib", *(
    word for number in ("tokens_per_second=1e6", "expert_bytes=1e6", "latency=1e-3")
    for word in ("--cost", number)
))  # fmt: skip


@dataclass
class Result:
    exit_code: int
    stdout: str
    stderr: str
    exception: BaseException | None = None


def run(*args: object) -> Result:
    """Run the command in this process; an exception that leaves it is kept, with exit code 1."""
    out, err, exception = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(a) for a in args])
        except SystemExit as end:
            code = end.code or 0
        except Exception as error:
            code, exception = 1, error
    return Result(code, out.getvalue(), err.getvalue(), exception)


def fails(*args: object, error: str) -> Result:
    """The command must end with exit code 2, nothing on stdout and exactly this sentence."""
    result = run(*args)
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1] == f"error: {error}"
    assert result.exit_code == 2
    return result


def process(*args: object, **how: object) -> subprocess.CompletedProcess[str]:
    """Run the command as a program of its own."""
    command = [sys.executable, "-m", "evenload", *map(str, args)]
    how = {"capture_output": True, "text": True, "timeout": 300} | how
    return subprocess.run(command, check=False, **how)
