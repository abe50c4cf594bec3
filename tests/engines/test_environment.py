"""The environment holds the releases that the pages speak of, and they import without a GPU."""

from __future__ import annotations

import importlib
from importlib.metadata import version

import pytest


@pytest.mark.parametrize(("engine", "release"), [("vllm", "0.33.0"), ("sglang", "0.5.23")])
def test_the_releases_are_the_ones_that_were_read(engine, release):
    assert version(engine) == release


@pytest.mark.parametrize(
    "name",
    [
        "vllm.plugins",
        "vllm.distributed.eplb.eplb_state",
        "vllm.distributed.eplb.async_worker",
        "vllm.distributed.eplb.migration_scheduler",
        "sglang.srt.plugins",
        "sglang.srt.plugins.hook_registry",
        "sglang.srt.eplb.eplb_algorithms",
        "sglang.srt.eplb.expert_location",
        "sglang.srt.eplb.expert_distribution",
        "sglang.srt.eplb.eplb_manager",
        "sglang.srt.server_args",
    ],
)
def test_it_imports_on_a_machine_without_a_gpu(name):
    importlib.import_module(name)
