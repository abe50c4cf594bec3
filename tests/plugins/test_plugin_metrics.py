"""The metrics of a rebalance: what another process scrapes, and what must never fail."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evenload import metrics
from evenload.extras import how_to_install
from evenload.metrics import Facts, record

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "metrics.md"
LABELS = {"engine": "vLLM", "model": ""}
WORKER = """
from evenload.metrics import Facts, record, record_bytes
{calls}
"""
TAKEN = "record('vLLM', Facts(.2, 7, .5, .75, .625, windows=4))"
BYTES = "record_bytes('vLLM', lambda: 7_000_000)"
KEPT = "record('vLLM', Facts(40., 9, kept='disagreement', windows=5, agreed=False))"


@pytest.fixture
def fresh():
    """No metric registered and nothing told yet, before and after."""
    for told in (metrics._metrics, metrics._warn):
        told.cache_clear()
    yield
    for told in (metrics._metrics, metrics._warn):
        told.cache_clear()


def worker(folder: Path | None, *calls: str) -> str:
    """Record in a process of its own; return what it prints."""
    environment = {k: v for k, v in os.environ.items() if k != "PROMETHEUS_MULTIPROC_DIR"}
    if folder is not None:
        environment["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    script = WORKER.format(calls="\n".join(calls))
    return subprocess.run(
        [sys.executable, "-c", script],
        env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=120,
    ).stdout  # fmt: skip


def scrape(folder: Path):
    """Return what a process that serves ``/metrics`` sees: values by name."""
    client = pytest.importorskip("prometheus_client")
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = client.CollectorRegistry()
    MultiProcessCollector(registry, str(folder))

    def value(name: str, **more: str):
        return registry.get_sample_value(f"evenload_{name}", LABELS | more)

    return value


def test_another_process_scrapes_what_workers_recorded(tmp_path):
    pytest.importorskip("prometheus_client")
    start = time.time()
    worker(tmp_path, TAKEN, BYTES)
    worker(tmp_path, TAKEN, BYTES, KEPT)
    value = scrape(tmp_path)
    counted = {name: value(f"{name}_total") for name in metrics.COUNTERS}
    assert counted == {"rebalances": 3, "moves": 14, "moved_bytes": 14e6, "disagreements": 1}
    assert value("kept_total", reason="disagreement") == 1
    assert value("kept_total", reason="no-load") == 0
    assert (value("planning_seconds_count"), value("planning_seconds_sum")) == (
        3,
        pytest.approx(40.4),
    )
    assert (
        value("planning_seconds_bucket", le="0.25")
        == value("planning_seconds_bucket", le="30.0")
        == 2
    )
    assert value("windows") == 5
    assert value("paused") == 0
    assert start <= value("last_rebalance_timestamp_seconds") <= time.time()


def test_a_gauge_is_that_of_the_last_process_and_what_is_unknown_stays(tmp_path):
    pytest.importorskip("prometheus_client")
    worker(tmp_path, TAKEN)
    worker(tmp_path, "record('vLLM', Facts(.1, before=.25, paused=True, kept='paused'))")
    value = scrape(tmp_path)
    found = [value(f"balancedness_{when}") for when in ("before", "predicted", "realised")]
    assert found == [0.25, 0.75, 0.625]
    assert value("paused") == 1


def test_nothing_is_set_that_was_never_known(tmp_path):
    pytest.importorskip("prometheus_client")
    worker(tmp_path, "record('vLLM', Facts(float('nan')))")
    value = scrape(tmp_path)
    assert value("balancedness_realised") is None
    assert value("planning_seconds_count") is None
    assert value("moved_bytes_total") is None  # no engine told how many


def test_a_reason_that_is_not_listed_is_another(tmp_path):
    pytest.importorskip("prometheus_client")
    worker(tmp_path, "record('vLLM', Facts(.1, kept='ValueError: no load on rank 3'))")
    assert scrape(tmp_path)("kept_total", reason=metrics.OTHER) == 1


def test_one_process_has_them_in_its_default_registry():
    pytest.importorskip("prometheus_client")
    shown = "import prometheus_client; print(prometheus_client.generate_latest().decode())"
    text = worker(None, TAKEN.replace("windows=4)", "windows=4), 'Qwen/Qwen3-30B-A3B'"), shown)
    assert 'evenload_moves_total{engine="vLLM",model="Qwen/Qwen3-30B-A3B"} 7.0' in text
    assert "# TYPE evenload_planning_seconds histogram" in text


@pytest.mark.usefixtures("fresh")
def test_without_the_package_the_log_says_so_once(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with caplog.at_level(logging.DEBUG, metrics.logger.name):
        for _ in range(2):
            record("vLLM", Facts(0.1))
    (said,) = caplog.records
    assert said.levelno == logging.DEBUG
    assert how_to_install("metrics") in said.getMessage()


@pytest.mark.usefixtures("fresh")
def test_metrics_that_cannot_be_written_do_not_stop_a_rebalance(monkeypatch, caplog):
    def full():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metrics, "_metrics", full)
    for _ in range(2):
        record("vLLM", Facts(0.1))
    (said,) = caplog.records
    assert said.levelno == logging.WARNING
    assert "No space left on device" in said.getMessage()
    monkeypatch.undo()


def test_registering_imports_no_prometheus_client():
    """Its folder may be set later, and it looks once."""
    told = worker(None, "import sys; print('prometheus_client' in sys.modules)")
    assert told == "False\n"


def test_the_page_names_every_metric_and_reason():
    page = PAGE.read_text(encoding="utf-8")
    names = [f"evenload_{name}_total" for name in (*metrics.COUNTERS, "kept")]
    names += [f"evenload_{name}" for name in (*metrics.GAUGES, "planning_seconds")]
    assert not [name for name in names if f"`{name}`" not in page]
    assert not [reason for reason in (*metrics.REASONS, metrics.OTHER) if f"`{reason}`" not in page]
