"""The commands on the page about reordering run, one after the other."""

import shlex

import numpy as np
import pytest
from checkpoints import content
from command import run
from test_docs import blocks, commands, read

PAGE = "docs/how-to/reorder.md"


@pytest.mark.usefixtures("generate")
def test_commands_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (made_up,) = blocks("python", read(PAGE))
    exec(compile(made_up, PAGE, "exec"), {})
    ran = commands(read(PAGE))
    subcommands = {command.split()[1] for command in ran}
    assert subcommands == {"reorder", "plan", "inspect", "convert", "replay"}
    for command in ran:
        program, *arguments = shlex.split(command)
        assert program == "evenload"
        result = run(*arguments)
        assert result.exit_code == 0, result.stderr
    assert content(tmp_path / "undone") == content(tmp_path / "model")
    with np.load("back.npz") as found, np.load("trace.npz") as given:
        np.testing.assert_array_equal(found["load"], given["load"])
