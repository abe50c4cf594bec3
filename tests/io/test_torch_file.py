"""What torch saved, read without torch: the same values, and nothing that a pickle may not ask."""

import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import dump_passes, dump_stat

from evenload.io import FileFormatError, read_load
from evenload.io.torch_file import MOST_OBJECTS, Tensor, load_torch, stored

torch = pytest.importorskip("torch")
RNG = np.random.default_rng(5)


def tensors():
    shapes = st.lists(st.integers(1, 4), min_size=1, max_size=3)
    kinds = st.sampled_from(
        [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.float16,
         torch.bfloat16, torch.float32, torch.float64]
    )  # fmt: skip
    made = st.builds(
        lambda shape, kind: torch.from_numpy(RNG.integers(0, 99, shape)).to(kind), shapes, kinds
    )
    views = (lambda t: t, lambda t: t.T, lambda t: t[:1], lambda t: t[..., 1:], lambda t: t[::2])
    return st.builds(lambda t, view: view(t), made, st.sampled_from(views))


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9)
VALUES = st.recursive(
    PLAIN | tensors(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=9,
)


def same(ours, theirs, path):
    if isinstance(ours, Tensor):
        if theirs.numel():
            there = stored(ours, "x", path, whole=False).whole()
            wide = theirs.float() if theirs.dtype is torch.bfloat16 else theirs
            assert there.dtype == wide.numpy().dtype
            np.testing.assert_array_equal(there, wide.numpy())
        return
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert list(ours) == list(theirs)
        ours, theirs = list(ours.values()), list(theirs.values())
    if isinstance(ours, list | tuple):
        for one, other in zip(ours, theirs, strict=True):
            same(one, other, path)
    else:
        assert ours == theirs


@settings(deadline=None)
@given(VALUES)
@pytest.mark.filterwarnings("ignore:The use of `x.T` on tensors:UserWarning")
def test_values_are_those_that_torch_reads(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "values.pt"
    torch.save(value, path)
    same(load_torch(path), torch.load(path, weights_only=True), path)


def archive(path, pickled, numbers=bytes(64), order="little"):
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("x/data.pkl", pickled)
        out.writestr("x/byteorder", order)
        out.writestr("x/data/0", numbers)
    return path


def tensor(shape, strides, first=b"K\x00", kind=b"Long", count=b"K\x08"):
    """The steps of a pickle that build a tensor of the storage 0."""
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\n" + kind + b"Storage\n"
        b"X\x01\0\0\x000X\x03\0\0\0cpu" + count + b"tQ" + first + shape + strides
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip


def test_numbers_whose_high_bytes_come_first(tmp_path):
    numbers = np.arange(8, dtype=">i8").tobytes()
    pickled = b"\x80\x02" + tensor(b"K\x02K\x04\x86", b"K\x04K\x01\x86") + b"."
    path = archive(tmp_path / "x.pt", pickled, numbers, "big")
    assert read_load(path).load.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


HUGE = b"\x8a\x08" + b"\xff" * 7 + b"\x7f"  # 2**63 - 1


@pytest.mark.parametrize(
    ("pickled", "why"),
    [
        (b"}" + b")" + b"\x85" * 300_000 + b"K\x01s.", "a dict whose keys are no texts"),
        (b"](" + b"}" * MOST_OBJECTS + b"e.", "more than the 8388608 lists, dicts and tuples"),
        (b"}\xff.", "it has the step b'\\xff'"),
        (b"]r\xff\xff\xff\xffj\xff\xff\xff\xff.", "the tensor is a list"),
        (tensor(b"(" + HUGE * 9000 + b"t", b"(" + HUGE * 9000 + b"t") + b".", "without numbers"),
        (tensor(HUGE + b"\x85", HUGE + b"\x85") + b".", "the file has 64 bytes for them"),
        (tensor(b"K\x02\x85", b"J\xff\xff\xff\xff\x85") + b".", "without numbers, a shape"),
        (tensor(b"X\x01\0\0\x002", b"K\x01\x85") + b".", "without numbers, a shape"),
        (tensor(b"K\x01\x85", b"K\x01\x85", kind=b"Quint8") + b".", "torch.Quint8Storage, which"),
        (tensor(b"K\x01\x85", b"K\x01\x85").replace(b"\x000X\x03", b"\x009X\x03") + b".", "not in"),
        (b"cbuiltins\neval\nX\x01\0\0\x001\x85R.", "it names builtins.eval, which is not a plain"),
        (b"c__main__\n\x80\n)\x81.", "damaged"),
        (b"X\xff\xff\xff\xffabc.", "damaged"),
        (b"K\x01K\x02K\x03s.", "it puts a value into a int"),
        (b"K\x01)R.", "damaged"),
        (b"", "damaged"),
    ],
)
def test_pickles_made_to_take_memory_time_or_more(tmp_path, pickled, why):
    path = archive(tmp_path / "x.pt", b"\x80\x02" + pickled)
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError) as caught:
            read_load(path, format="vllm-ascend-load")
        assert tracemalloc.get_traced_memory()[1] < 2**27
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message) < 500
    assert why in message


@pytest.mark.parametrize("key", ["forward_pass_id", "rank", "gatherer_key"])
def test_lists_that_name_one_list_many_times_are_not_shown(tmp_path, key):
    many = [0]
    for _ in range(60):
        many = [many, many]
    path = dump_passes(tmp_path / "x.pt", 0, {7: np.ones((1, 2), int)}, [[0, 1]])
    value = torch.load(path, weights_only=True)
    value["records"][0][key] = many
    torch.save(value, path)
    if key == "gatherer_key":
        assert read_load(path).load.tolist() == [[1, 1]]
    else:
        with pytest.raises(FileFormatError, match=rf"records\[0\]\.{key}=<class 'list'> is not an"):
            read_load(path)


def test_a_name_of_any_length_in_a_damaged_archive_is_cut(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, load=np.ones((20, 50)))
    content = bytearray(path.read_bytes())
    content[27] = 16  # the length of the member's name, as the member itself has it
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="key 'load': the archive is cut off") as caught:
        read_load(path)
    assert len(str(caught.value)) < 500


HEAVY = ("torch", "pyarrow", "yaml", "numba", "safetensors", "pandas")
READ = f"""
import sys
from evenload.io import read_load
for path in sys.argv[1:]:
    read_load(path)
print([name for name in {HEAVY} if name in sys.modules])
"""


def test_no_heavy_package_is_imported_before_it_is_needed(tmp_path):
    (tmp_path / "x.csv").write_text("1,2\n3,4\n")
    np.save(tmp_path / "x.npy", np.ones((2, 2)))
    np.savez(tmp_path / "x.npz", load=np.ones((2, 2)))
    (tmp_path / "x.json").write_text("[[1, 2]]")
    dump_stat(tmp_path / "x.pt", np.ones((1, 2, 2)))
    command = [sys.executable, "-c", READ, *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
