"""What a worker records is on the ``/metrics`` of the engines' own servers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

WORKER = """
from evenload.metrics import Facts, record
record("an engine", Facts(0.2, moves=7))
"""
SAID = 'evenload_moves_total{engine="an engine",model=""} 7.0'


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    subprocess.run([sys.executable, "-c", WORKER], env=os.environ, check=True, timeout=120)


@pytest.mark.usefixtures("recorded")
def test_vllm_shows_what_a_worker_recorded():
    from prometheus_client import generate_latest
    from vllm.v1.metrics.prometheus import get_prometheus_registry

    assert SAID in generate_latest(get_prometheus_registry()).decode()


@pytest.mark.usefixtures("recorded")
def test_sglang_shows_what_a_worker_recorded():
    from fastapi.testclient import TestClient
    from sglang.srt.utils.common import add_prometheus_middleware
    from starlette.applications import Starlette

    app = Starlette()
    add_prometheus_middleware(SimpleNamespace(routes=app.router.routes))
    assert SAID in TestClient(app).get("/metrics").text


@pytest.mark.parametrize(("engine", "label"), [("vllm", "vLLM"), ("sglang", "SGLang")])
def test_what_moves_is_counted_in_bytes_under_the_models_name(tmp_path, engine, label):
    from prometheus_client import CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    worker = Path(__file__).with_name("metrics_worker.py")
    printed = subprocess.run(
        [sys.executable, "-W", "ignore", str(worker), engine],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        stdout=subprocess.PIPE, text=True, check=True, timeout=300,
    ).stdout  # fmt: skip
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(tmp_path))
    labels = {"engine": label, "model": {"vllm": "tiny/moe", "sglang": "tiny"}[engine]}
    number = registry.get_sample_value("evenload_moved_bytes_total", labels)
    assert number > 0
    assert number == int(printed.split("SAID ")[1])
    assert registry.get_sample_value("evenload_moves_total", labels) > 0
