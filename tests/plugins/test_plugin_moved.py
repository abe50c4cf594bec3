"""What is known of a model's weights, and how many bytes of them a new map moves."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from engine_stubs import put_module
from hypothesis import given
from hypothesis import strategies as st

from evenload.plugins import moved
from evenload.plugins.moved import Model, expert_bytes, model_of, moved_bytes, watch_vllm


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(moved, "_known", {})


def test_an_expert_is_all_its_tensors():
    weights = [torch.zeros(4, 3, 5, dtype=torch.bfloat16), torch.zeros(4, 7, dtype=torch.uint8)]
    assert expert_bytes([*weights, torch.zeros(4)]) == 2 * 15 + 7 + 4


@given(st.data())
def test_bytes_are_those_of_experts_that_are_new_to_their_rank(data):
    ranks, slots, wider = (data.draw(st.integers(low, 4)) for low in (1, 1, 0))
    row = st.lists(st.integers(-1, 5), min_size=ranks * slots, max_size=ranks * slots)
    old, new = (np.array([data.draw(row) for _ in range(2)]) for _ in range(2))
    old = np.concatenate([old, np.full((2, wider), 3)], axis=1)  # on ranks that go
    number = 0
    for layer in range(2):
        for rank in range(ranks):
            part = slice(rank * slots, (rank + 1) * slots)
            arrived = set(new[layer, part].tolist()) - set(old[layer, part].tolist()) - {-1}
            number += len(arrived) * (5, 7)[layer]
    assert moved_bytes(old, new, ranks, [5, 7]) == number


class State:
    """vLLM's state of all models, as far as it is looked at."""

    def __init__(self):
        self.model_states = {}

    def add_model(self, name, layers, experts, size=3):
        weights = [[torch.zeros(2, size)] for _ in range(layers)]
        model = SimpleNamespace(
            num_moe_layers=layers, num_logical_experts=experts, expert_weights=weights
        )
        self.model_states[name] = SimpleNamespace(model=model, model_name=name)
        return "what vLLM returns"


@pytest.fixture
def state(monkeypatch):
    class Fresh(State):
        add_model = State.add_model

    put_module(monkeypatch, "vllm.distributed.eplb.eplb_state", EplbState=Fresh)
    watch_vllm()
    watch_vllm()
    return Fresh()


def test_a_model_is_known_from_when_it_joins(state):
    assert model_of(3, 8) is None
    assert state.add_model("main", 3, 8) == "what vLLM returns"
    state.add_model("draft", 1, 8, size=5)
    state.add_model("main", 3, 8)  # again, as after ranks came
    assert model_of(3, 8) == Model("main", [12] * 3)
    assert model_of(1, 8) == Model("draft", [20])


def test_of_two_models_of_one_shape_nothing_is_known(state):
    state.add_model("main", 3, 8)
    state.add_model("other", 3, 8)
    state.add_model("main", 3, 8)
    assert model_of(3, 8) is None


def test_a_model_without_weights_joins_all_the_same(state):
    state.model_states["odd"] = SimpleNamespace(model=None)
    assert state.add_model("main", 3, 8) == "what vLLM returns"
    assert model_of(3, 8).name == "main"


def test_the_profiling_run_counts_nothing(monkeypatch):
    counted = []
    monkeypatch.setattr(moved, "record_bytes", lambda engine, n, model: counted.append(n()))
    model, old = Model("main", [5]), np.array([[0, 1, 2, 3]])
    for loaded, new in ((False, [[1, 0, 3, 2]]), (False, [[2, 3, 0, 1]]), (True, [[0, 2, 1, 3]])):
        model.moved("vLLM", old, np.array(new), 2, loaded)
    assert counted == [20, 10]
