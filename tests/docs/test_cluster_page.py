"""What the runbook for a cluster tells to type, to set and to look for."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evenload.plugins.settings import KNOBS, read_settings
from evenload.synth import synthetic_trace

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "run_on_a_cluster.md"
EXAMPLES = PAGE.parent / "examples" / "cluster"
KNOWN = {knob.variable for knob in KNOBS}
PAGES = [page for page in (ROOT / "docs").rglob("*.md") if "EVENLOAD_" in page.read_text("utf-8")]


def test_every_example_of_the_runbook_is_shown() -> None:
    shown = set(re.findall(r"<!-- examples/cluster/(\S+) -->", PAGE.read_text("utf-8")))
    assert shown == {file.name for file in EXAMPLES.iterdir()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_settings_that_there_are(page: Path) -> None:
    text = page.read_text("utf-8")
    named = set(re.findall(r"EVENLOAD_[A-Z_]*[A-Z]", text)) - {"EVENLOAD_"}
    assert named <= KNOWN


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.toml")), ids=lambda file: file.stem)
def test_evenload_takes_the_settings(file: Path) -> None:
    settings = read_settings({"EVENLOAD_OPTIONS": str(file)})
    assert settings.vllm
    assert settings.on_failure == "raise"
    assert settings.topology == "ignore"
    assert bool(settings.placement) == (file.stem == "static")


def test_the_runbook_plans(tmp_path: Path) -> None:
    np.savez(tmp_path / "loads.npz", load=synthetic_trace(3, 2, 256))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-euo", "pipefail", str(EXAMPLES / "plan.sh")], cwd=tmp_path,
                   env=os.environ | {"PATH": path}, check=True)  # fmt: skip
    placement = json.loads((tmp_path / "placement.json").read_text())
    assert np.shape(placement["physical_to_logical"]) == (2, 288)


def said_by_evenload() -> list[str]:
    """Return every text in the sources, those of f-strings in parts."""
    return [
        node.value
        for file in (ROOT / "src" / "evenload" / "plugins").glob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def test_the_lines_to_look_for_are_lines_of_evenload() -> None:
    table = PAGE.read_text("utf-8").split("## When something is wrong")[1]
    rows = re.findall(r"^\| (.*?) \|", table, flags=re.MULTILINE)
    lines = [row.strip("`") for row in rows if re.fullmatch("`[^`]+`", row)]
    assert len(lines) >= 10
    texts = said_by_evenload()
    shadow = (PAGE.parent / "shadow.md").read_text("utf-8")
    own = "; the engine's own has {0.own:.4f}"
    for said in ("shadow: ours would be ", own, "canary: {0.own:.4f}"):
        assert said.replace("{0.own:.4f}", "0.EEEE") in shadow
        assert any(said in text for text in texts)
    assert not [line for line in lines if not any(line in text for text in texts)]
    for text in ("balancedness {0.before:.4f} -> {0.after:.4f}", "the old map stays: {0.kept}"):
        assert any(text in said for said in texts)
