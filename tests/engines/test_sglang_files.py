"""SGLang reads the placements that evenload writes, and evenload what SGLang's recorder dumps."""

import sys
from pathlib import Path
from subprocess import Popen

import numpy as np
import pytest
from sglang_world import EXPERTS, LAYERS, MODEL, RANKS, SLOTS, configured, free_port, join, loads

from evenload import Cluster, solve
from evenload.io import read_trace, write_placement
from evenload.layers import ModelLayers

MODES = ("stat", "per_pass", "per_token")


@pytest.fixture(scope="module", autouse=True)
def group():
    join()


@pytest.mark.parametrize("ending", ["json", "pt"])
def test_sglang_starts_with_a_placement_that_evenload_wrote(tmp_path, ending):
    from sglang.srt.eplb import expert_location as location

    load = loads().sum(0).double().numpy()[1:]
    placement = solve(load, Cluster(RANKS, num_slots=SLOTS)).placement
    path = tmp_path / f"experts.{ending}"
    write_placement(path, placement, layers=ModelLayers(range(1, LAYERS), LAYERS), format="sglang")
    with configured(init_expert_location=str(path)):
        metadata = location.compute_initial_expert_location_metadata(MODEL, moe_ep_rank=1)
    physical = metadata.physical_to_logical_map_cpu.numpy()
    assert np.array_equal(physical[1:], placement.physical_to_logical)
    assert set(physical[0]) == set(range(EXPERTS))
    slots = metadata.logical_to_all_physical_map_cpu.numpy()[1:]
    most = placement.logical_to_physical.shape[2]
    assert np.array_equal(slots[:, :, :most], placement.logical_to_physical)
    assert (slots[:, :, most:] == -1).all()


@pytest.fixture(scope="module", params=[1, 2])
def recordings(request, tmp_path_factory):
    """Number of ranks, and the folder with a folder of dumps for each mode."""
    ranks, folder = request.param, tmp_path_factory.mktemp("recordings")
    script = Path(__file__).with_name("sglang_record.py")
    arguments = [str(ranks), str(free_port()), str(folder), *MODES]
    running = [Popen([sys.executable, script, str(rank), *arguments]) for rank in range(ranks)]
    try:
        assert [process.wait(300) for process in running] == [0] * ranks
    finally:
        for process in running:
            process.kill()
    return ranks, folder


@pytest.mark.parametrize("mode", MODES)
def test_evenload_reads_what_sglangs_recorder_dumps(recordings, mode):
    ranks, folder = recordings[0], recordings[1] / mode
    counted = sum(np.load(folder / f"counted_{r}.npy") for r in range(ranks))
    for path in [folder, folder / "*.pt"] if ranks > 1 else [folder]:
        trace = read_trace(path, format="sglang-recorder")
        assert trace.layers.ids == tuple(range(1, len(counted[0])))
        found = np.stack([trace.window(w) for w in range(trace.num_windows)])
        assert np.array_equal(found, counted[:, 1:])
        # Of the modes one tells prefill from decode; every second pass was decoding.
        assert list(trace.phases) == (["prefill", "decode"] if mode == "per_token" else [])
        for first, phase in enumerate(trace.phases):
            part = trace.phase(phase)
            found = np.stack([part.window(w) for w in range(part.num_windows)])
            assert np.array_equal(found, counted[first::2, 1:])


def test_sglangs_forward_modes_are_those_that_are_read_as_phases():
    from sglang.srt.model_executor.forward_batch_info import ForwardMode

    from evenload.io.sglang_recorder import _MIXED, _PHASES

    named = {phase: [ForwardMode(n).name for n in modes] for phase, modes in _PHASES.items()}
    assert named == {
        "prefill": ["EXTEND", "MIXED", "SPLIT_PREFILL"],
        "decode": ["DECODE", "TARGET_VERIFY", "DRAFT_EXTEND_V2"],
    }
    assert ForwardMode(_MIXED).name == "MIXED"
