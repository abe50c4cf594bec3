"""vLLM's expert maps: any legal one is read as it was made, any other tensor in a sentence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evenload.io import FileFormatError, PlacementShape, read_anything, read_placement_file

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("maps") / "map.pth"


@settings(max_examples=30, deadline=None)
@given(
    layers=st.integers(1, 3), each=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    seed=st.integers(0, 99), dtype=st.sampled_from([torch.int32, torch.int64]),
)  # fmt: skip
def test_every_expert_lives_where_the_map_says(path, layers, each, seed, dtype):
    rng, experts = np.random.default_rng(seed), sum(each)
    rows = np.stack([rng.permutation(experts) for _ in range(layers)])
    places = np.full((layers, len(each), experts), -1)
    for layer, row in enumerate(rows):
        slot = 0
        for rank, count in enumerate(each):
            places[layer, rank, row[slot : slot + count]] = np.arange(count)
            slot += count
    torch.save(torch.from_numpy(places).to(dtype), path)
    name, file = read_anything(path, PlacementShape(), prefer="read_placement")
    assert name == "vllm-expert-map"
    assert file.placement.physical_to_logical.tolist() == rows.tolist()
    assert file.placement.cluster.slots == tuple(each)
    assert file.placement.num_experts == experts


@settings(max_examples=60, deadline=None)
@given(arrays(np.int32, st.lists(st.integers(0, 3), max_size=4), elements=st.integers(-3, 4)))
def test_any_other_tensor_is_refused_in_a_sentence(path, places):
    torch.save(torch.from_numpy(places), path)
    file, sentence = None, f"{path}"
    try:
        file = read_placement_file(path, format="vllm-expert-map")
    except FileFormatError as error:
        sentence = str(error)
    assert sentence.startswith(str(path))
    assert "\n" not in sentence
    if file is not None:
        layer = np.nonzero(places >= 0)[0]
        held = np.bincount(layer, minlength=len(places))
        assert (held == file.placement.num_slots).all()
