"""The commands on the pages, as far as the engines' own parsers go."""

import argparse
import ast
import dataclasses
import re
import shlex
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "engines" / "examples"


def arguments(name: str) -> list[str]:
    """Return what follows the program's name in the last command of a script."""
    text = re.sub(r"\\\n", " ", (EXAMPLES / name).read_text(encoding="utf-8"))
    words = shlex.split(text.strip().splitlines()[-1])
    start = words.index("serve" if words[0] == "vllm" else "sglang.launch_server")
    return words[start + 1 :]


@pytest.fixture
def vllm_parser(monkeypatch):
    import vllm.platforms
    from vllm.platforms.cpu import CpuPlatform

    # The parser asks what it would run on, and the wheel is one for GPUs.
    monkeypatch.setattr(vllm.platforms, "_current_platform", CpuPlatform())
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())


@pytest.mark.parametrize(
    "script",
    [
        "vllm/serve.sh",
        "vllm/serve_static.sh",
        "vllm_ascend/serve.sh",
        "vllm_ascend/serve_static.sh",
    ],
)
def test_vllm_knows_these_options(vllm_parser, script):
    model, *options = arguments(script)
    said = vllm_parser.parse_args(options)
    assert "/" in model
    if script.startswith("vllm/"):
        assert said.enable_eplb
        assert said.eplb_config.policy == "default"
        assert said.eplb_config.num_redundant_experts == 16
    else:
        assert "eplb_config" in said.additional_config


def test_vllm_knows_what_the_recording_asks_for():
    from vllm import SamplingParams
    from vllm.engine.arg_utils import EngineArgs

    calls = [n for n in ast.walk(ast.parse((EXAMPLES / "vllm" / "record.py").read_text()))
             if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]  # fmt: skip
    said = {call.func.id: {keyword.arg for keyword in call.keywords} for call in calls}
    assert said["LLM"] <= {field.name for field in dataclasses.fields(EngineArgs)}
    assert "enable_return_routed_experts" in said["LLM"]
    SamplingParams(**dict.fromkeys(said["SamplingParams"], 1))


@pytest.mark.parametrize("script", ["record.sh", "serve.sh", "serve_static.sh"])
def test_sglang_knows_these_options(script):
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    said = parser.parse_args(arguments(f"sglang/{script}"))
    assert (said.tp_size, said.ep_size) == (8, 8)
    assert (said.eplb_algorithm == "evenload") == (script == "serve.sh")
    assert (said.expert_distribution_recorder_mode == "stat") == (script == "record.sh")


def test_sglang_has_the_addresses_that_the_recording_calls():
    import sglang

    server = Path(sglang.__file__).parent / "srt" / "entrypoints" / "http_server.py"
    script = (EXAMPLES / "sglang" / "record_requests.sh").read_text()
    for address in re.findall(r"localhost:30000(/\w+)", script):
        assert f'"{address}"' in server.read_text(encoding="utf-8")


CLUSTER = EXAMPLES.parents[1] / "examples" / "cluster"
STANDS_FOR = {"$HEAD": "10.0.0.1", "$NODE": "1", "$FIRST_RANK": "8"}


def on_the_cluster(name: str) -> list[str]:
    words = arguments(CLUSTER / name)
    for variable, value in STANDS_FOR.items():
        words = [word.replace(variable, value) for word in words]
    return words


@pytest.mark.parametrize("script", sorted(f.name for f in CLUSTER.glob("vllm_*.sh")))
def test_vllm_knows_the_options_of_the_runbook(vllm_parser, script):
    from vllm.entrypoints.common.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    said = make_arg_parser(FlexibleArgumentParser()).parse_args(on_the_cluster(script))
    assert said.model_tag == "deepseek-ai/DeepSeek-V3"
    assert said.enable_eplb
    assert said.enable_expert_parallel
    assert (said.data_parallel_size, said.data_parallel_size_local) == (32, 8)
    assert said.eplb_config.num_redundant_experts == 32
    assert said.headless == (said.data_parallel_start_rank == 8) == (script == "vllm_node.sh")
    assert (said.data_parallel_backend == "ray") == (script == "vllm_ray.sh")


def test_vllm_hands_our_variables_to_the_engines_that_ray_starts(monkeypatch):
    from vllm.ray.ray_env import get_env_vars_to_copy

    exported = re.findall(r"export (\w+)=(\S+)", (CLUSTER / "vllm_ray.sh").read_text())
    monkeypatch.setenv(*exported[0])
    assert "EVENLOAD_OPTIONS" not in get_env_vars_to_copy()
    monkeypatch.setenv(*exported[1])
    assert "EVENLOAD_OPTIONS" in get_env_vars_to_copy()


@pytest.mark.parametrize("script", ["sglang_static.sh", "sglang_live.sh"])
def test_sglang_knows_the_options_of_the_runbook(script):
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    said = parser.parse_args(on_the_cluster(script))
    assert (said.tp_size, said.ep_size, said.attn_dp_size, said.nnodes) == (32, 32, 32, 4)
    assert said.eplb_algorithm == "evenload"
    assert said.enable_eplb == (script == "sglang_live.sh")


def test_the_page_on_vllm_says_what_its_own_policy_comes_to():
    import torch
    from vllm.distributed.eplb.policy import EPLB_POLICIES

    from evenload import Cluster, Placement
    from evenload.synth import synthetic_load

    page = " ".join((EXAMPLES.parent / "vllm.md").read_text(encoding="utf-8").split())
    load, cluster = synthetic_load(), Cluster(32, 4, num_slots=288)
    order = Placement(torch.arange(288).remainder(256).repeat(58, 1).numpy(), cluster, 256)
    old = torch.from_numpy(order.physical_to_logical)
    for groups in (8, 1):
        found = EPLB_POLICIES["default"].rebalance_experts(
            torch.from_numpy(load), 288, groups, 4, 32, old
        )
        placed = Placement(found.numpy(), cluster, 256)
        reached = f"{placed.balancedness(load).mean():.4f}".lstrip("0")
        assert f"to {reached} by {placed.moves_from(order).sum():,} moves" in page
