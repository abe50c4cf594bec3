"""What plans reach, on synthetic loads and on real ones; deterministic, so no luck is involved."""

from pathlib import Path

import numpy as np
import pytest

from evenload import Cluster, solve
from evenload.synth import lognormal_load, synthetic_load, zipf_load

SYNTHETIC = {
    "lognormal 0.5": lognormal_load(58, 256, 0.5),
    "lognormal 1.0": lognormal_load(58, 256, 1.0),
    "zipf": zipf_load(58, 256, 1.0),
    "calibrated": synthetic_load(58, 256),
}
REAL = [
    ("gpt-oss-20b", 8, 40),
    ("deepseek-v2-lite", 8, 72),
    ("qwen3-30b-a3b", 16, 160),
    ("olmoe-domains", 8, 72),
]


def assert_auto_is_best(load: np.ndarray, cluster: Cluster) -> None:
    plans = {s: solve(load, cluster, solver=s) for s in ("greedy", "iterated-greedy", "auto")}
    reached = {name: plan.balancedness for name, plan in plans.items()}
    assert reached["auto"].mean() >= reached["iterated-greedy"].mean() > reached["greedy"].mean()
    assert (reached["auto"] >= reached["iterated-greedy"] * (1 - 1e-12)).mean() >= 0.99
    assert not plans["auto"].duplicates.any()
    assert not plans["iterated-greedy"].duplicates.any()


@pytest.mark.parametrize("name", SYNTHETIC)
def test_nine_slots_a_gpu(name: str) -> None:
    cluster = Cluster(32, num_slots=288)
    assert_auto_is_best(SYNTHETIC[name], cluster)
    assert solve(SYNTHETIC[name], cluster).balancedness.mean() >= 0.9995


@pytest.mark.parametrize(("name", "num_gpus", "num_slots"), REAL)
def test_real_loads(shared: Path, name: str, num_gpus: int, num_slots: int) -> None:
    with np.load(shared / "data" / f"{name}.npz") as file:
        load = file["load"].sum(axis=0)
    assert_auto_is_best(load, Cluster(num_gpus, num_slots=num_slots))


def test_groups_on_nodes_come_near_their_bound() -> None:
    plan = solve(synthetic_load(58, 256), Cluster(32, 4, num_slots=288), num_groups=8)
    assert plan.gap.max() < 1e-3
    assert plan.bound.mean() < 0.9
