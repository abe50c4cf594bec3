"""What the pages show is what happens."""

import doctest
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import evenload
import evenload.solvers.exact

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
REPLAY = (ROOT / "docs" / "replay.md").read_text(encoding="utf-8")


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


def test_python_examples_of_the_readme_run() -> None:
    examples = blocks("python")
    assert len(examples) >= 2
    exec(compile("\n".join(examples), "README.md", "exec"), {})


def test_shell_examples_of_the_readme_run(tmp_path: Path) -> None:
    commands = [line for block in blocks("shell") for line in block.splitlines() if line.strip()]
    assert commands
    load = np.random.default_rng(0).integers(1, 1000, (4, 32))
    np.savetxt(tmp_path / "loads.csv", load, fmt="%d", delimiter=",")
    np.savez(tmp_path / "trace.npz", load=np.stack([load, load[::-1], load]))
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "evenload"
        run = subprocess.run(
            [sys.executable, "-m", "evenload", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        told = {"inspect": "3 windows, 4 layers, 32 experts", "convert": "wrote the placement to"}
        assert told.get(arguments[0], "balancedness") in run.stdout + run.stderr
    assert (tmp_path / "moe_load_balancer.yaml").read_text().startswith("num_slots: 40")


def test_python_examples_of_the_page_on_replays_run() -> None:
    examples = blocks("python", REPLAY)
    assert len(examples) >= 3
    exec(compile("\n".join(examples), "replay.md", "exec"), {})


def test_shell_examples_of_the_page_on_replays_run(tmp_path: Path) -> None:
    commands = [line for block in blocks("shell", REPLAY) for line in block.splitlines()]
    assert {command.split()[1] for command in commands} == {"replay", "report", "sweep"}
    load = np.random.default_rng(0).integers(1, 1000, (12, 2, 32))
    np.savez(tmp_path / "trace.npz", load=load)
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "evenload"
        run = subprocess.run(
            [sys.executable, "-m", "evenload", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert "balancedness" in run.stdout


def test_the_page_on_replays_names_every_policy_and_number() -> None:
    from dataclasses import fields

    from evenload import CostModel
    from evenload.replay import policy_names

    names = [*policy_names(), *(field.name for field in fields(CostModel))]
    assert not [name for name in names if f"`{name}`" not in REPLAY]


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_two_commands_of_the_readme_exist(target: str) -> None:
    assert f"    make {target} " in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_links_of_the_readme_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert targets
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert not missing


def test_command_reference_is_current(generate) -> None:
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == generate.command_reference(), "run `make docs`"


@pytest.mark.parametrize("module", ["cluster", "planner", "trace", "cost.model", "replay.run"])
def test_docstring_examples_run(module: str) -> None:
    names = vars(importlib.import_module("evenload.cluster")).copy()
    result = doctest.testmod(
        importlib.import_module(f"evenload.{module}"), extraglobs={"Cluster": names["Cluster"]}
    )
    assert result.attempted > 0
    assert result.failed == 0


def test_exact_is_named_where_the_same_bytes_are_promised() -> None:
    """Its plan depends on the version of OR-tools, and every place that promises must say so."""
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    pages = [README, contributing, evenload.solve.__doc__, evenload.solvers.exact.exact.__doc__]
    for page in pages:
        plain = " ".join(str(page).split())
        assert re.search(r"same (bytes|result) (on|for|only)", plain)
        assert re.search(r"version of OR-tools", plain)
