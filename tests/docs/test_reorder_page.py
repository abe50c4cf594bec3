"""The commands on the page about reordering run, one after the other."""

import shlex

import numpy as np
import pytest
from checkpoints import content, save, tensors_of
from command import run
from test_docs import LOAD, commands, read

PAGE = "docs/how-to/reorder.md"


@pytest.mark.usefixtures("generate")
def test_commands_run(tmp_path, monkeypatch) -> None:
    np.savez(tmp_path / "trace.npz", load=LOAD)
    tensors = tensors_of("glm4_moe", experts=32)
    save(tmp_path / "model", "glm4_moe", tensors, n_routed_experts=32)
    monkeypatch.chdir(tmp_path)
    ran = commands(read(PAGE))
    assert {command.split()[1] for command in ran} == {"reorder", "plan", "convert", "replay"}
    for command in ran:
        program, *arguments = shlex.split(command)
        assert program == "evenload"
        result = run(*arguments)
        assert result.exit_code == 0, result.stderr
    assert content(tmp_path / "first") == content(tmp_path / "model")
    assert run("inspect", "reordered").exit_code == 0
    with np.load("new.npz") as found:
        np.testing.assert_array_equal(found["load"], LOAD)
