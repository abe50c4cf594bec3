"""vllm-ascend's loads: a tensor in a file."""

import pickle

import numpy as np
import pytest
from load_files import LOAD, TRACE, complains

from evenload.io import read_load, read_trace

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("ending", [".pt", ".pth"])
def test_loads_and_traces(tmp_path, dtype, ending):
    path = tmp_path / f"x{ending}"
    small = TRACE % 100 + 1
    torch.save(torch.tensor(small).to(getattr(torch, dtype)), path)
    trace = read_trace(path)
    np.testing.assert_array_equal(list(trace), small)
    np.testing.assert_array_equal(list(pickle.loads(pickle.dumps(trace))), small)
    torch.save(torch.tensor(small[0]).to(getattr(torch, dtype)), path)
    file = read_load(path)
    np.testing.assert_array_equal(file.load, small[0])
    assert (file.format, file.layers) == ("vllm-ascend-load", None)


def test_a_tensor_that_is_a_view(tmp_path):
    torch.save(torch.tensor(LOAD.T.copy()).T, tmp_path / "x.pt")
    np.testing.assert_array_equal(read_load(tmp_path / "x.pt").load, LOAD)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(2, 2) > 0, "the tensor has dtype torch.bool; use an integer or floating dtype"),
        (
            torch.ones(2, 2, 2, 2),
            "the load has 4 dimensions (2, 2, 2, 2); use [layers, experts] or [windows, layers, "
            "experts]",
        ),
        (torch.ones(2, 0), "the tensor has shape (2, 0); use some axes, at least 1 of each"),
        ([torch.ones(2)], "the tensor is a list; save a tensor"),
    ],
)
def test_wrong_tensors(tmp_path, value, message):
    torch.save(value, tmp_path / "x.pt")
    complains(tmp_path / "x.pt", "{path}: " + message, format="vllm-ascend-load")


def test_negative_numbers(tmp_path):
    torch.save(torch.tensor([[1.0, -1.0]]), tmp_path / "x.pt")
    complains(
        tmp_path / "x.pt",
        "{path}: load[0, 1]=-1.0 is not a finite number >= 0; use 0 or more",
        error=ValueError,
    )
