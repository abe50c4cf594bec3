"""What a worker records is on the ``/metrics`` of the engines' own servers."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

WORKER = """
from evenload.plugins.metrics import Facts, record
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
