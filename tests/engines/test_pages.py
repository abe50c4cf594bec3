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
