"""Moves that are looked at, beside a stand-in of vLLM's functions that move."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from engine_stubs import put_module, stub_vllm
from torch.distributed import distributed_c10d

from evenload.plugins import verify
from evenload.plugins.settings import read_settings
from evenload.plugins.vllm import register

L, K = 9, 3
OLD = torch.tensor([[0, 1, 2]]).repeat(L, 1)
NEW = torch.tensor([[2, 0, 0]]).repeat(L, 1)


class FakeGroup(SimpleNamespace):
    """The first member of a group of two, or of as many as there are."""

    ranks = 2

    def size(self):
        return self.ranks

    def rank(self):
        return 0


class OneRank(FakeGroup):
    """A group of one."""

    ranks = 1


def rearrange_expert_weights_inplace(
    old_global_expert_indices, new_global_expert_indices, expert_weights, expert_buffer, ep_group,
    communicator, is_profile=False, rank_mapping=None,
):  # fmt: skip
    for layer, new in zip(expert_weights, new_global_expert_indices, strict=True):
        for tensor in layer:
            tensor.copy_(tensor[new])  # expert e is in row e before
    communicator(expert_weights)


def _move_to_workspace(model_state, ep_rank):
    result = model_state.pending_result
    layer, new = result.layer_idx, result.new_physical_to_logical_map
    for tensor in model_state.model.expert_weights[layer]:
        tensor.copy_(tensor[new])
    model_state.physical_to_logical_map[layer] = new
    model_state.spoil(layer, model_state.model.expert_weights[layer])


def fresh():
    torch.manual_seed(1)
    return [[torch.randn(K, 4), torch.randint(0, 9, (K, 3), dtype=torch.uint8)] for _ in range(L)]


@pytest.fixture
def vllm(monkeypatch):
    """vLLM's module, whose group is `group`, with a store."""
    world = SimpleNamespace(group=OneRank(), store=torch.distributed.HashStore())
    put_module(monkeypatch, "vllm.distributed.parallel_state",
               get_ep_group=lambda: SimpleNamespace(cpu_group=world.group))  # fmt: skip
    monkeypatch.setattr(distributed_c10d, "_get_process_group_store", lambda group: world.store)
    world.state = put_module(
        monkeypatch, verify.MODULE, _move_to_workspace=_move_to_workspace,
        rearrange_expert_weights_inplace=rearrange_expert_weights_inplace,
    )  # fmt: skip
    return world


def all_at_once(vllm, weights, spoil=lambda weights: None, **kwargs):
    vllm.state.rearrange_expert_weights_inplace(
        OLD, NEW, weights, [], vllm.group, spoil, kwargs.pop("is_profile", False), **kwargs
    )


def by_layer(vllm, weights, spoil=lambda layer, weights: None, layers=range(L)):
    state = SimpleNamespace(
        model=SimpleNamespace(expert_weights=weights, num_moe_layers=L),
        physical_to_logical_map=OLD.clone(), spoil=spoil,
    )  # fmt: skip
    for layer in layers:
        state.pending_result = SimpleNamespace(
            layer_idx=layer, new_physical_to_logical_map=NEW[layer]
        )
        vllm.state._move_to_workspace(model_state=state, ep_rank=0)


def ended(verifier):
    if verifier._thread is not None:
        verifier._thread.join(30)
        assert not verifier._thread.is_alive()


@pytest.mark.parametrize("how", [all_at_once, by_layer])
def test_moves_that_are_right(vllm, caplog, how):
    told = []
    verifier = verify.install(True, told.append)
    with caplog.at_level(logging.INFO, "vllm.evenload"):
        how(vllm, fresh())
        ended(verifier)
    assert told == []
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        f"evenload: experts have the same bytes after the move, layers {list(range(L))}"
    )


def flip(weights):
    weights[4][1].view(torch.uint8)[2, 1] ^= 1


@pytest.mark.parametrize("how", [all_at_once, by_layer])
def test_one_flipped_bit_is_told(vllm, caplog, how):
    told, weights = [], fresh()
    verifier = verify.install(True, told.append)
    spoil = {
        all_at_once: flip,
        by_layer: lambda layer, _: flip(weights) if layer == 4 else None,
    }
    with caplog.at_level(logging.INFO, "vllm.evenload"):
        how(vllm, weights, spoil[how])
        ended(verifier)
    wrong = ("a rebalance did not keep the experts' weights: layer 4: expert 0 was in slot 0 "
             "(rank 0), and now slot 2 (rank 0) holds no expert's weights")  # fmt: skip
    assert told == [wrong]
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [
        (logging.ERROR, f"evenload: {wrong}")
    ]


def test_a_few_layers_at_a_time_and_each_in_its_turn(vllm):
    verifier, seen = verify.install(False), []
    verifier._compare = lambda looks, *_: seen.append([look.layer for look in looks])
    for _ in range(4):
        all_at_once(vllm, fresh())
        ended(verifier)
    assert seen == [[1, 4, 7], [2, 5, 8], [0, 3, 6], [1, 4, 7]]


def test_a_rebalance_that_stops_half_way_is_looked_at_too(vllm):
    told, weights = [], fresh()
    verifier = verify.install(True, told.append)
    by_layer(vllm, weights, lambda layer, _: flip(weights) if layer == 4 else None, range(6))
    assert verifier._thread is None
    by_layer(vllm, fresh(), layers=range(1))
    ended(verifier)
    assert len(told) == 1
    assert "layer 4" in told[0]


def test_profiling_and_ranks_that_come_are_not_looked_at(vllm, caplog):
    verifier = verify.install(True)
    all_at_once(vllm, fresh(), is_profile=True)
    assert caplog.text == ""
    for _ in range(2):
        all_at_once(vllm, fresh(), rank_mapping={0: 0})
    assert verifier._thread is None
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "evenload: not verified, because ValueError: ranks come or go in this rebalance"


def test_a_failure_of_ours_stays_here_and_is_told_once(vllm, caplog, monkeypatch):
    verify.install(True)
    monkeypatch.setattr(verify, "checksums", lambda tensors: 1 // 0)
    weights = fresh()
    by_layer(vllm, weights)
    assert (weights[0][0] == fresh()[0][0][NEW[0]]).all()  # it moved all the same
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("evenload: not verified, because ZeroDivisionError")


def test_a_failure_of_vllms_own_passes(vllm):
    verifier = verify.install(True)

    def fail(weights):
        raise OSError("the link is down")

    with pytest.raises(OSError, match="the link is down"):
        all_at_once(vllm, fresh(), fail)
    all_at_once(vllm, fresh())
    ended(verifier)


def test_a_call_that_raises_is_told_and_stays_here(vllm, caplog):
    def pause(text):
        raise KeyError("pause")

    verifier = verify.install(True, pause)
    all_at_once(vllm, fresh(), flip)
    ended(verifier)
    assert "not verified, because KeyError: 'pause'" in caplog.text


def test_a_rank_that_hands_in_nothing_is_named(vllm, caplog):
    vllm.group, verifier = FakeGroup(), verify.install(True)
    verifier.wait = 0.01
    all_at_once(vllm, fresh())
    ended(verifier)
    assert "TimeoutError: ranks [1] handed in no checksums within 0.01 s" in caplog.text


def test_a_group_without_a_store_is_told(vllm, caplog, monkeypatch):
    def none(group):
        raise KeyError(group)

    monkeypatch.setattr(distributed_c10d, "_get_process_group_store", none)
    verifier = verify.install(True)
    all_at_once(vllm, fresh())
    ended(verifier)
    assert "LookupError: vLLM's group of ranks has no store" in caplog.text


@pytest.mark.parametrize(
    ("begins", "says", "told"),
    [(0, "ranks [1] looked at other layers than rank 0", 0),
     (16, "ranks [1] have other maps than rank 0", 1)],
)  # fmt: skip
def test_ranks_that_do_not_see_the_same(vllm, caplog, monkeypatch, begins, says, told):
    """The other rank says what this one does, but for one digest."""
    texts = []
    monkeypatch.setattr(
        verify, "exchange",
        lambda group, number, mine, wait: [mine, mine[:begins] + b"?" * 16 + mine[begins + 16 :]],
    )  # fmt: skip
    verifier = verify.install(True, texts.append)
    all_at_once(vllm, fresh())
    ended(verifier)
    assert says in caplog.text
    assert len(texts) == told


def test_replicas_that_differ_before_are_told_once_and_pause_nothing(vllm, caplog, monkeypatch):
    monkeypatch.setattr(f"{__name__}.OLD", torch.tensor([[0, 0, 2]]).repeat(L, 1))
    told = []
    verifier = verify.install(True, told.append)
    for _ in range(2):
        all_at_once(vllm, fresh())
        ended(verifier)
    assert told == []
    (line,) = [record.getMessage() for record in caplog.records]
    assert "replicas differed before any move of this rebalance" in line
    assert "layer 0: expert 0 in slot 0 (rank 0), slot 1 (rank 0); layer 1: " in line
    assert line.endswith("; and 1 more")


# ---- installing ----------------------------------------------------------------------------------


def test_installing_twice_is_installing_once(vllm):
    verifier = verify.install(True)
    functions = [getattr(vllm.state, name) for name in verify.EXPECTED]
    assert verify.install(True) is verifier
    assert [getattr(vllm.state, name) for name in verify.EXPECTED] == functions


def test_a_release_with_other_functions_is_left_alone(vllm, caplog, monkeypatch):
    def other(model_state, ep_rank, stream):
        """One that takes something more."""

    monkeypatch.setattr(vllm.state, "_move_to_workspace", other)
    assert verify.install(True) is None
    assert vllm.state.rearrange_expert_weights_inplace is rearrange_expert_weights_inplace
    assert vllm.state._move_to_workspace is other
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        "evenload: moves are not verified, because TypeError: _move_to_workspace takes "
        "(model_state ep_rank stream); use a vLLM where it takes (model_state ep_rank)"
    )


def test_a_release_without_the_module_is_told(caplog):
    assert verify.install(True) is None
    assert "moves are not verified, because ModuleNotFoundError" in caplog.text


@pytest.mark.parametrize(
    ("value", "wanted"), [("1", True), ("all", True), ("0", False), (None, False)]
)
def test_it_is_installed_only_if_asked(vllm, monkeypatch, value, wanted):
    stub_vllm(monkeypatch)
    monkeypatch.setenv("EVENLOAD_VLLM", "1")
    if value is not None:
        monkeypatch.setenv("EVENLOAD_VERIFY", value)
    register()
    verifier = getattr(vllm.state._move_to_workspace, "verifier", None)
    assert (verifier is not None) == wanted
    if wanted:
        assert verifier.all_layers == (value == "all")


def test_a_value_that_is_none_is_refused():
    with pytest.raises(ValueError, match="EVENLOAD_VERIFY='some' is not yes, no or all; use 1, 0"):
        read_settings({"EVENLOAD_VERIFY": "some"})
