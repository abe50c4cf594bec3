"""What is asked of a plug-in: the environment, the file, and which of the two counts."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from evenload.plugins.settings import KNOBS, Settings, is_asked_for, read_settings


def test_every_knob_means_something():
    assert all(len(knob.meaning) > 20 for knob in KNOBS)


def test_defaults():
    settings = read_settings({})
    assert settings == Settings()
    assert not settings.vllm
    assert settings.solver == "auto"
    assert settings.for_solver(True) == {}


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_the_environment_beats_the_file(tmp_path, suffix):
    said = {"vllm": True, "move_cost": 0.01, "effort": "fast", "max_moves": 3}
    path = tmp_path / f"options{suffix}"
    toml = "\n".join(f"{name} = {json.dumps(value)}" for name, value in said.items())
    path.write_text(toml if suffix == ".toml" else json.dumps(said))
    environment = {"EVENLOAD_OPTIONS": str(path), "EVENLOAD_EFFORT": "4000", "EVENLOAD_AGREE": "no"}
    settings = read_settings(environment)
    assert settings.vllm
    assert not settings.agree
    assert settings.for_solver(True) == {"effort": 4000, "move_cost": 0.01, "max_moves": 3}
    assert settings.for_solver(False) == {"effort": 4000}


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"EVENLOAD_EFORT": "fast"}, "EVENLOAD_EFORT is not a setting; use EVENLOAD_EFFORT"),
        ({"EVENLOAD_EFFORT": "slow"}, "use one of: fast, standard, thorough, or a number"),
        ({"EVENLOAD_EFFORT": "-1"}, "use one of: fast"),
        ({"EVENLOAD_MOVE_COST": "nan"}, "EVENLOAD_MOVE_COST='nan' is not a number of at least 0"),
        ({"EVENLOAD_MAX_MOVES": "1.5"}, "EVENLOAD_MAX_MOVES='1.5' is not an integer"),
        ({"EVENLOAD_VLLM": "maybe"}, "EVENLOAD_VLLM='maybe' is not yes or no"),
        ({"EVENLOAD_TOPOLOGY": "loose"}, "use one of: auto, strict, prefer, ignore"),
        ({"EVENLOAD_OPTIONS": "absent.toml"}, "absent.toml cannot be read"),
        ({"EVENLOAD_OPTIONS": "options.yaml"}, "ends in neither .toml nor .json"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(environment, says):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        read_settings(environment)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"efort": 1}', "says 'efort', which is not a setting of a file; use effort"),
        ('{"max_moves": 1.0}', "max_moves=1.0 is not an integer"),
        ('{"max_moves": true}', "max_moves=True is not an integer"),
        ('{"options": "other.json"}', "not a setting of a file"),
        ("[1]", "holds a list"),
        ("[" * 100_000, "cannot be read"),
        ("{", "cannot be read"),
    ],
)
def test_a_wrong_file_is_told_of(tmp_path, text, says):
    path = tmp_path / "options.json"
    path.write_text(text)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        read_settings({"EVENLOAD_OPTIONS": str(path)})
    assert says in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, False),
        ({"EVENLOAD_VLLM": "1"}, True),
        ({"EVENLOAD_VLLM": "0"}, False),
        ({"EVENLOAD_VLLM_ASCEND": "1"}, False),
        ({"EVENLOAD_VLLM": "1", "EVENLOAD_EFORT": "1"}, True),
        ({"EVENLOAD_VLLM": "0", "EVENLOAD_EFORT": "1"}, False),
        ({"EVENLOAD_OPTIONS": "absent.toml"}, True),
    ],
)
def test_a_setting_that_cannot_be_read_is_not_passed_over(monkeypatch, environment, asked):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_asked_for("vllm") is asked


@pytest.mark.parametrize(
    "asks_nothing",
    [
        "from evenload.plugins.vllm import register; register()",
        "from evenload.plugins.sglang import compute_algorithm;"
        "compute_algorithm(lambda *_: None, 'deepseek', None, 1)",
    ],
    ids=["vllm", "sglang"],
)
def test_nothing_heavy_is_imported_where_nobody_asks(asks_nothing):
    script = (
        f"import sys; {asks_nothing};"
        "print([m for m in ('numpy', 'numba', 'torch', 'json', 'tomllib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
