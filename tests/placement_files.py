"""Placements that the tests of their files share, and ways to write and read them."""

import io
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from evenload import Cluster, Placement
from evenload.io import (
    FORMATS,
    PlacementFile,
    read_placement_file,
    write_placement_file,
)
from evenload.layers import ModelLayers

# Every format that holds placements, and an ending that it takes.
ENDINGS = {
    "evenload": ".json",
    "evenload-npz": ".npz",
    "sglang": ".json",
    "sglang-pt": ".pt",
    "tensorrt-llm": ".yaml",
    "vllm-ascend": ".json",
}
CLUSTER = Cluster(4, 2, slots_per_gpu=3)
PLACEMENT = Placement(np.stack([np.r_[0:8, 0:4], np.r_[7, 2, 0:8, 1, 4]]), CLUSTER, 8)
LAYERS = ModelLayers((3, 5), 7)


def name_of(kind: str) -> str:
    return kind.removesuffix("-pt")


def write(folder: Path, kind: str, file: PlacementFile) -> tuple[Path, tuple[str, ...]]:
    path = folder / f"p-{kind}{ENDINGS[kind]}"
    return path, write_placement_file(path, file, format=name_of(kind))


def read(path: Path, like: PlacementFile) -> PlacementFile:
    """Read with all that a caller can know of the placement."""
    cluster = like.placement.cluster
    return read_placement_file(
        path,
        num_gpus=cluster.num_gpus,
        num_nodes=cluster.num_nodes,
        num_experts=like.placement.num_experts,
        layers=like.layers,
    )


def text_of(name: str, file: PlacementFile, ending: str = ".json") -> str:
    stream = io.BytesIO()
    writer = next(f for f in FORMATS if f.name == name)
    named = PlacementFile(file.placement, f"x{ending}", file.solver, file.load_digest, file.layers)
    writer.function("write_placement")(stream, named)
    return stream.getvalue().decode()


@st.composite
def placements(draw, *, twice: bool = False) -> Placement:
    """Any placement on equal living GPUs; no expert twice on a GPU unless `twice`."""
    gpus = draw(st.integers(1, 4))
    nodes = draw(st.sampled_from([n for n in range(1, gpus + 1) if gpus % n == 0]))
    each, layers = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    experts = draw(st.integers(1 if twice else each, gpus * each))
    rows = [draw(_row(gpus, each, experts, twice)) for _ in range(layers)]
    return Placement(rows, Cluster(gpus, nodes, each), experts)


@st.composite
def _row(draw, gpus, each, experts, twice):
    random = draw(st.randoms(use_true_random=False))
    if twice:
        slots = [
            *range(experts),
            *(random.randrange(experts) for _ in range(gpus * each - experts)),
        ]
        random.shuffle(slots)
        return slots
    # Deal experts round and round: no GPU gets one twice as long as it has at most E slots.
    order = random.sample(range(experts), experts)
    row = [order[s % experts] for s in range(gpus * each)]
    blocks = [row[g * each : (g + 1) * each] for g in range(gpus)]
    for block in blocks:
        random.shuffle(block)
    random.shuffle(blocks)
    return [expert for block in blocks for expert in block]


@st.composite
def model_layers(draw, count: int) -> ModelLayers:
    ids = sorted(draw(st.sets(st.integers(0, 12), min_size=count, max_size=count)))
    return ModelLayers(ids, draw(st.none() | st.integers(ids[-1] + 1, 14)))
