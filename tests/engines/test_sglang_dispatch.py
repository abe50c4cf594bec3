"""What docs/how-to/engines/sglang.md says of replicas and dispatch, held to SGLang itself."""

import json

import numpy as np
import pytest
import torch
from sglang_world import EXPERTS, LAYERS, MODEL, RANKS, SLOTS, configured, join, loads

from evenload import Cluster, Placement, solve

NODES = Cluster(RANKS, 2, num_slots=SLOTS)
COUNT = loads().sum(0).double().numpy() + 1
PLAN = solve(COUNT, NODES).placement


@pytest.fixture(scope="module", autouse=True)
def plugins():
    from sglang.srt.plugins import load_plugins

    join()
    load_plugins()


def tables(start, rank, backend, dispatch="dynamic", algorithm="auto"):
    """Start a rank with a map or loads, and return its metadata."""
    from sglang.srt.eplb import expert_location as location

    said = start if isinstance(start, str) else json.dumps(start)
    with configured(
        init_expert_location=said, moe_a2a_backend=backend,
        ep_dispatch_algorithm=dispatch, eplb_algorithm=algorithm,
    ):  # fmt: skip
        return location.compute_initial_expert_location_metadata(MODEL, moe_ep_rank=rank)


MAP = {"physical_to_logical_map": PLAN.physical_to_logical.tolist()}
LOADS = {"logical_count": COUNT.astype(int).tolist()}


def whole(metadata):
    """Whether each expert's table has all replicas."""
    valid = metadata.logical_to_all_physical_map_num_valid
    return int(valid.sum()) == LAYERS * SLOTS


@pytest.mark.parametrize(
    ("start", "backend", "expected"),
    [
        (MAP, "none", True),
        (MAP, "deepep", False),
        ("trivial", "deepep", False),
        (LOADS, "none", True),
        (LOADS, "deepep", True),
    ],
)
def test_maps_at_the_start_are_narrowed_with_an_all_to_all_backend_and_loads_are_not(
    start, backend, expected
):
    for rank in range(RANKS):
        assert whole(tables(start, rank, backend, algorithm="evenload")) == expected


def test_a_dump_of_the_recorder_is_loads_to_start_from(tmp_path):
    dump = {"rank": 0, "logical_count": loads(), "average_utilization_rate_over_window": None}
    torch.save(dump, tmp_path / "dump.pt")
    found = tables(str(tmp_path / "dump.pt"), 0, "deepep", algorithm="evenload")
    assert whole(found)
    placed = found.physical_to_logical_map_cpu.numpy()[1:]
    load = loads().sum(0).double().numpy()[1:]
    assert Placement(placed, NODES, EXPERTS).balancedness(load).min() > 0.9


def dealt(metadata):
    """Spread what a rank sends over its table, as `dynamic` does on average: [L, S]."""
    slots = metadata.logical_to_all_physical_map_cpu.numpy()
    valid = metadata.logical_to_all_physical_map_num_valid.numpy()
    sent = np.zeros((LAYERS, SLOTS))
    layer, expert, replica = np.nonzero(slots >= 0)
    share = (COUNT / RANKS / valid)[layer, expert]
    np.add.at(sent, (layer, slots[layer, expert, replica]), share)
    return sent


def test_narrowed_maps_are_dispatch_nearest():
    sent = sum(dealt(tables(MAP, rank, "deepep")) for rank in range(RANKS))
    gpu_load = sent.reshape(LAYERS, RANKS, -1).sum(axis=2)
    np.testing.assert_allclose(gpu_load, PLAN.gpu_load(COUNT, dispatch="nearest"), rtol=1e-12)
    assert (gpu_load.max(axis=1) > PLAN.gpu_load(COUNT).max(axis=1) * 1.01).any()


@pytest.mark.parametrize("tokens", [None, np.arange(1.0, RANKS + 1)])
def test_static_is_dispatch_static_to_the_very_choices(tokens):
    metadata = tables(LOADS, 0, "deepep", "static", "evenload")
    chosen = choices(metadata)
    placed = metadata.physical_to_logical_map_cpu.numpy()
    place = Placement(placed, NODES, EXPERTS)
    parts = np.full(RANKS, 1 / RANKS) if tokens is None else tokens / tokens.sum()
    gpu_load = np.zeros((LAYERS, RANKS))
    for part, by_rank in zip(parts, chosen, strict=True):
        at = by_rank.numpy() // (SLOTS // RANKS)
        np.add.at(gpu_load, (np.arange(LAYERS)[:, None], at), COUNT * part)
    ours = place.gpu_load(COUNT, dispatch="static", tokens_from=tokens)
    np.testing.assert_allclose(ours, gpu_load, rtol=1e-12)
    if tokens is not None:  # whole ranks are dealt out, and these have not the same to send
        nearest = place.gpu_load(COUNT, dispatch="nearest", tokens_from=tokens)
        assert not np.allclose(gpu_load, nearest, rtol=1e-3)


def choices(metadata):
    """Return the slot that each rank takes of each expert by `static`: [ranks] of [L, E]."""
    from sglang.srt.eplb.expert_location import compute_logical_to_rank_dispatch_physical_map

    slots = metadata.logical_to_all_physical_map
    with configured(moe_a2a_backend="deepep", ep_dispatch_algorithm="static"):
        return [compute_logical_to_rank_dispatch_physical_map(slots, RANKS, SLOTS, rank)
                for rank in range(RANKS)]  # fmt: skip


def test_static_takes_near_replicas_of_a_whole_map_and_deals_other_ranks_out_fairly():
    metadata = tables(LOADS, 0, "deepep", "static")
    size, chosen = SLOTS // RANKS, choices(metadata)
    assert torch.equal(metadata.logical_to_rank_dispatch_physical_map, chosen[0])
    for layer in range(LAYERS):
        for expert in range(EXPERTS):
            replicas = metadata.logical_to_all_physical(layer, expert)
            picked = [int(by_rank[layer, expert]) for by_rank in chosen]
            far = []
            for rank, slot in enumerate(picked):
                own = [s for s in replicas if s // size == rank]
                node = [s for s in replicas if s // (2 * size) == rank // 2]
                near = own or (node if len(node) < len(replicas) else [])
                if near:
                    assert slot == near[0]
                else:
                    far.append(slot)
            counts = [far.count(s) for s in replicas]
            assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    ("backend", "said", "plans"),
    [("none", "dynamic", "even"), ("deepep", "dynamic", "even"), ("deepep", "lp", "live"),
     ("deepep", "static", "static"), ("none", None, "even")],
)  # fmt: skip
def test_plans_are_for_the_dispatch_that_runs(backend, said, plans):
    from evenload.plugins.sglang import dispatch_of_engine

    with configured(moe_a2a_backend=backend, ep_dispatch_algorithm=said):
        assert dispatch_of_engine() == plans


@pytest.mark.parametrize(
    ("backend", "said", "runs"),
    [
        ("none", None, "dynamic"),
        ("deepep", None, "static"),
        ("deepep", "dynamic", "dynamic"),
        ("deepep", "lp", "lp"),
        ("none", "static", ValueError),
        ("none", "lp", ValueError),
        ("none", "fake", "fake"),
    ],
)
def test_which_dispatch_runs(backend, said, runs, monkeypatch):
    from types import SimpleNamespace

    from sglang.srt.arg_groups import parallel_hook

    args = SimpleNamespace(
        moe_a2a_backend=backend, ep_dispatch_algorithm=said, enable_eplb=True, ep_size=RANKS,
        init_expert_location="trivial", expert_distribution_recorder_mode="stat",
        ep_join_mode=None,
    )  # fmt: skip
    monkeypatch.setattr(parallel_hook, "resolving_view", lambda args: args)
    monkeypatch.setattr(parallel_hook, "resolved_view", lambda args: args)
    declare = lambda args, _, **said: vars(args).update(said)  # noqa: E731
    monkeypatch.setattr(parallel_hook, "declare_resolution", declare)
    if runs is ValueError:
        with pytest.raises(ValueError, match="picks a different physical replica per rank"):
            parallel_hook.handle_eplb_and_dispatch(args)
        return
    parallel_hook.handle_eplb_and_dispatch(args)
    assert args.ep_dispatch_algorithm == runs


def test_dynamic_picks_by_row_without_a_backend_and_at_random_with_one():
    from sglang.srt.eplb.expert_location_dispatch import (
        ExpertLocationDispatchInfo,
        topk_ids_logical_to_physical,
    )

    replicas = torch.tensor([[3, 7, -1], [5, -1, -1]])
    valid = torch.tensor([2, 1])
    tokens = torch.zeros(2000, 1, dtype=torch.int64)
    for rank_invariant in (True, False):
        info = ExpertLocationDispatchInfo("dynamic", None, replicas, valid, 8, rank_invariant)
        picked = topk_ids_logical_to_physical(tokens, info).flatten().tolist()
        assert (picked == [3, 7] * 1000) == rank_invariant
        assert abs(picked.count(3) - 1000) < 200
