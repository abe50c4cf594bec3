"""What the pages on engines tell to type."""

import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs" / "how-to" / "engines").glob("*.md"))
EXAMPLES = PAGES[0].parent / "examples"
RNG = np.random.default_rng(0)


def test_every_example_is_shown() -> None:
    shown = {
        name for page in PAGES for name in re.findall(r"<!-- (examples/\S+) -->", page.read_text())
    }
    there = {str(f.relative_to(EXAMPLES.parent)) for f in EXAMPLES.rglob("*") if f.is_file()}
    assert shown == there


def run_example(name: str, folder: Path) -> str:
    """Run a script as a reader would, with this evenload first on the path."""
    where = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-euo", "pipefail", str(EXAMPLES / name)], cwd=folder, env=where,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_plan_for_vllm_what_its_example_records(tmp_path, monkeypatch) -> None:
    class Output:
        def __init__(self, number):
            self.request_id = str(number)
            routed = np.argsort(RNG.random((40, 4, 128)), axis=2)[:, :, :8].astype(np.uint8)
            self.outputs = [types.SimpleNamespace(routed_experts=routed)]
            self.prompt_token_ids = [*range(30)]

    class LLM:
        def __init__(self, model, **options):
            assert options["enable_return_routed_experts"]

        def generate(self, prompts, parameters):
            return [Output(number) for number, _ in enumerate(prompts)]

    stub = types.SimpleNamespace(LLM=LLM, SamplingParams=dict)
    monkeypatch.setitem(sys.modules, "vllm", stub)
    monkeypatch.chdir(tmp_path)
    example = EXAMPLES / "vllm" / "record.py"
    exec(compile(example.read_text(), str(example), "exec"), {})
    out = run_example("vllm/plan.sh", tmp_path)
    assert "loads (vllm-routed-experts), 2 windows, 4 layers, 128 experts" in out
    assert "prefill (75.0% of the tokens)" in out
    placement = json.loads((tmp_path / "placement.json").read_text())
    assert np.shape(placement["physical_to_logical"]) == (4, 144)


def test_plan_for_sglang_what_it_recorded(tmp_path) -> None:
    pytest.importorskip("torch")
    from recordings import dump_stat

    # DeepSeek-V2-Lite's shape: prices are its own.
    counts = RNG.integers(1, 999, (2000, 27, 64), np.int32)
    counts[:, 0] = 0  # a dense layer
    (tmp_path / "recordings").mkdir()
    dump_stat(tmp_path / "recordings" / "expert_distribution_recorder_1700000000.0.pt", counts)
    out = run_example("sglang/plan.sh", tmp_path)
    assert "loads (sglang-recorder), 2,000 windows, 26 layers, 64 experts" in out
    placement = json.loads((tmp_path / "init.json").read_text())
    assert list(placement) == ["physical_to_logical_map"]
    assert np.shape(placement["physical_to_logical_map"]) == (27, 72)


def test_plan_for_tensorrt_llm_what_it_counted(tmp_path) -> None:
    yaml = pytest.importorskip("yaml")
    numpy = pytest.importorskip("safetensors.numpy")
    folder = tmp_path / "expert_statistic"
    folder.mkdir()
    (folder / "meta_info.json").write_text('{"num_experts": 256, "num_experts_per_token": 8}')
    counts = {f"{i}_{layer}": RNG.integers(0, 99, 256) for i in (100, 101) for layer in (3, 4)}
    numpy.save_file(counts, folder / "rank0.safetensors")
    run_example("tensorrt_llm/plan.sh", tmp_path)
    plan = yaml.safe_load((tmp_path / "moe_load_balancer.yaml").read_text())
    options = yaml.safe_load((EXAMPLES / "tensorrt_llm" / "extra_llm_api_options.yaml").read_text())
    assert Path(options["moe_config"]["load_balancer"]).name == "moe_load_balancer.yaml"
    assert list(plan["initial_global_assignments"]) == [3, 4]
    assert plan["num_slots"] == 288


def test_plan_for_vllm_ascend_what_was_saved(tmp_path) -> None:
    torch = pytest.importorskip("torch")
    torch.save(torch.from_numpy(RNG.integers(1, 999, (3, 256))), tmp_path / "loads.pt")
    run_example("vllm_ascend/plan.sh", tmp_path)
    plan = json.loads((tmp_path / "expert_map.json").read_text())
    assert plan["moe_layer_count"] == 3
    assert {layer["device_count"] for layer in plan["layer_list"]} == {16}
