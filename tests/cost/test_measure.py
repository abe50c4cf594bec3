"""Measuring experts on a CPU: that it runs, what it writes, and what it refuses."""

import re

import pytest

from evenload.cost import MODELS, ExpertTime, measure
from evenload.cost.measure import measure_expert_time, powers_up_to

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def _small(monkeypatch) -> None:
    small = measure.Effort(3, 4, 8, 1e4, 2, 1)
    monkeypatch.setattr(measure, "ON_CPU", small)


def test_powers() -> None:
    assert powers_up_to(1) == [1]
    assert powers_up_to(8) == [1, 2, 4, 8]
    assert powers_up_to(6) == [1, 2, 4, 6]


def test_measured_points_make_a_file_of_a_curve(tmp_path) -> None:
    told = []
    measured = measure_expert_time(32, 16, device="cpu", tell=lambda *done: told.append(done))
    shapes = [(active, tokens) for active, tokens, _ in measured.points]
    assert shapes == [(a, n) for a in (1, 2, 3) for n in (1, 2, 4) if a * n <= 8]
    assert all(seconds > 0.0 for *_, seconds in measured.points)
    assert told == [(done, len(shapes)) for done in range(len(shapes))]
    measured.points[:] = [(a, n, 1.0 * a * n) for a, n in shapes]  # clocks are not exact
    measured.write(tmp_path / "curve.csv")
    curve = ExpertTime.read(tmp_path / "curve.csv")
    assert curve.points == ((0.0, 0.0), (1.0, 1.0), (2.0, 2.0), (4.0, 4.0))
    assert curve.source.startswith("measured on ")


@pytest.mark.parametrize("missing", ["", "grouped_mm", "both"])
def test_products_agree(monkeypatch, missing) -> None:
    """Without a grouped product, each expert's matrices are multiplied by themselves."""
    if missing:
        monkeypatch.delattr(torch.nn.functional, "grouped_mm", raising=False)
    if missing == "both":
        monkeypatch.delattr(torch, "_grouped_mm", raising=False)
    layer = measure._Layer(torch, torch.device("cpu"), 32, 16, "bf16", 3, measure.ON_CPU)
    assert (layer.product == "torch.matmul") == bool(layer.notes)
    if missing == "both":
        assert layer.product == "torch.matmul"
    found = layer.calls(2, 3)[1]().float()  # the second call reads other experts
    for row in range(6):
        expert = 2 + row // 3
        both = layer.up[expert].float() @ layer.x[row].float()
        inner = torch.nn.functional.silu(both[:16]) * both[16:]
        wanted = layer.down[expert].float() @ inner
        assert torch.allclose(found[row], wanted, rtol=0.1, atol=0.1)


def test_experts_differ_and_are_read_in_turn() -> None:
    layer = measure._Layer(torch, torch.device("cpu"), 32, 16, "bf16", 3, measure.ON_CPU)
    assert len({matrix.float().sum().item() for matrix in layer.up}) == len(layer.up) >= 4
    assert len(layer.calls(1, 1)) == 2
    assert not torch.equal(*(call() for call in layer.calls(1, 1)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0, 16), "hidden_size=0 is less than 1; use 1 or more"),
        ((40, 16), "hidden_size=40 is not a multiple of 16; use 32 or 48"),
        ((32, 8), "intermediate_size=8 is not a multiple of 16; use 16 or 32"),
        ((32, 16, "mxfp4"), "dtype='mxfp4' is unknown; use one of: bf16, fp8"),
    ],
)
def test_sizes_that_cannot_be_measured(given, message) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        measure_expert_time(*given, device="cpu")


def test_fp8_needs_a_gpu() -> None:
    with pytest.raises(ValueError, match=r"^dtype='fp8' cannot be multiplied here .*; use 'bf16'$"):
        measure_expert_time(32, 16, "fp8", device="cpu")


def test_other_arguments() -> None:
    with pytest.raises(ValueError, match=r"^num_experts=0 is less than 1; use 1 or more$"):
        measure_expert_time(32, 16, num_experts=0, device="cpu")
    with pytest.raises(ValueError, match=r"^device='tpu' is unknown; use one of: cuda, cpu$"):
        measure_expert_time(32, 16, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"^device='cuda' is not here.*; use 'cpu'$"):
            measure_expert_time(32, 16, device="cuda")


def test_the_benchmark_writes_curves_where_presets_look(tmp_path, monkeypatch) -> None:
    from benchmarks import on_gpu
    from evenload.cost import expert_time

    sizes = {"small": (32, 16, "bf16", 3), "never": (32, 16, "fp8", 3)}
    for name, value in (("OUT", tmp_path), ("EXPERTS", sizes)):
        monkeypatch.setattr(on_gpu, name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    small, never = on_gpu.expert_time()["results"]
    assert small["us_of_all_active"]
    assert never["not_run"].startswith("ValueError: dtype='fp8' cannot be multiplied here")
    (path,) = (tmp_path / "curves").iterdir()
    monkeypatch.setattr(expert_time, "CURVES", tmp_path / "curves")
    monkeypatch.setitem(expert_time.MODELS, "small", MODELS["qwen3-30b-a3b"]._replace(
        hidden_size=32, intermediate_size=16
    ))  # fmt: skip
    path.write_text(path.read_text().partition("active,")[0] + "tokens,seconds\n1,2\n2,3\n")
    assert ExpertTime.preset("h200-ib", "small").seconds(2) == 3.0
    assert ExpertTime.preset("h100-ib", "small").source == expert_time.NEVER_MEASURED
