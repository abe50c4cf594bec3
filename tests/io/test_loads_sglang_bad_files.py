"""Dumps of SGLang's recorder that cannot be read, each with its exact complaint."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from load_files import complains
from recordings import dump_passes, dump_stat

from evenload.io import FileFormatError, read_load

torch = pytest.importorskip("torch")
L, E, S = 2, 4, 6
MAPS = np.tile(np.arange(S) % E, (L, 1))
ONES = np.ones((L, S), int)


def save(path, value):
    torch.save(value, path)
    return path


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"a": 1, "b": 2},
            "no key is known as loads; found: a (int), b (int); use load, or layers by number, or "
            "name one by --key (key=)",
        ),
        ([1], "the tensor is a list; save a tensor"),
        ({"logical_count": 5}, "logical_count is a int; save a tensor"),
        (
            {"logical_count": torch.zeros(1, 2, 3, 4, dtype=torch.int32)},
            "logical_count has shape (1, 2, 3, 4); use [steps, layers, experts], at least 1 of "
            "each",
        ),
        (
            {"logical_count": torch.zeros(0, 2, 3, dtype=torch.int32)},
            "logical_count has shape (0, 2, 3); use [steps, layers, experts], at least 1 of each",
        ),
        (
            {"logical_count": torch.ones(1, 2, 3)},
            "logical_count has dtype torch.float32; use an integer dtype",
        ),
        (
            {"logical_count": torch.zeros(2, 2, 3, dtype=torch.int32)},
            "no token was counted in 2 windows; record while the engine serves",
        ),
        (
            {"logical_count": torch.tensor([[[1, 2], [3, -4]]])},
            "logical_count[0] has -4; counts are 0 or more",
        ),
        (
            {"logical_count": torch.ones(1, dtype=torch.int32).expand(10**4, 10**4, 10**4)},
            f"logical_count claims {10**12} numbers (10000, 10000, 10000), and the file has 4 "
            "bytes for them; save a contiguous tensor",
        ),
        (
            {"logical_count": torch.ones(2, 2, dtype=torch.int64).to_sparse()},
            "its pickle is refused: it names torch._utils._rebuild_sparse_tensor, which is not a "
            "plain "
            "value; only tensors and plain values are read",
        ),
        ({"records": []}, "no keys 'records' and 'last_physical_to_logical_map', or one of them"),
        (
            {"records": [], "last_physical_to_logical_map": torch.from_numpy(MAPS)},
            "records is an empty list, or none; nothing was recorded",
        ),
        (
            {"records": [{"rank": 0}], "last_physical_to_logical_map": torch.from_numpy(MAPS)},
            "records[0] has no key 'forward_pass_id'",
        ),
    ],
)
def test_wrong_content(tmp_path, value, message):
    complains(save(tmp_path / "x.pt", value), "{path}: " + message)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (MAPS.clip(0, 2), None),
        (MAPS - 1, "has expert -1 among 6 slots; use 0 to 5 at most"),
        (MAPS * 10**12, "has expert 3000000000000 among 6 slots; use 0 to 5 at most"),
        (np.array([[0, 1, 2, 3, 0, 1], [0, 1, 1, 3, 0, 1]]), "has no slot of expert 2 in layer 1; "
         "every expert from 0 to 3 needs one"),
        (MAPS[0], "has shape (6,); use [layers, slots], at least 1 of each"),
    ],
)  # fmt: skip
def test_wrong_map(tmp_path, maps, message):
    path = dump_passes(tmp_path / "x.pt", 0, {1: ONES}, maps)
    if message is None:
        assert read_load(path).load.shape == (2, 3)
    else:
        complains(path, "{path}: last_physical_to_logical_map " + message)


def test_wrong_counts(tmp_path):
    path = dump_passes(tmp_path / "x.pt", 0, {7: ONES[:, 1:]}, MAPS)
    complains(
        path,
        "{path}: records[0].global_physical_count has shape (2, 5), and "
        "last_physical_to_logical_map (2, 6); both are [layers, slots]",
    )
    path = dump_passes(tmp_path / "x.pt", 0, {7: -ONES}, MAPS)
    complains(path, "{path}: forward pass 7 has -1 tokens in a slot; counts are 0 or more")
    path = dump_passes(tmp_path / "x.pt", -1, {7: ONES}, MAPS)
    complains(path, "{path}: records[0].rank=-1 is less than 0; use 0 or more")


def test_files_that_do_not_fit(tmp_path):
    a, b = tmp_path / "a.pt", tmp_path / "b.pt"
    pattern = tmp_path / "?.pt"
    dump_passes(a, 0, {7: ONES}, MAPS)
    dump_passes(b, 2, {7: ONES}, MAPS)
    complains(
        pattern,
        "{path}: no file of rank 1, and there is one of rank 2; give the files of all ranks",
    )
    dump_passes(b, 0, {7: ONES}, MAPS)
    complains(
        pattern,
        f"{b}: rank 0 has forward pass 7 here and in a.pt, and they share layers, as stages of a "
        "pipeline do not; give each recording once",
    )
    dump_passes(b, 1, {7: ONES}, MAPS[:, ::-1].copy())
    complains(
        pattern,
        f"{b}: last_physical_to_logical_map differs from that of a.pt, and both have forward pass "
        "7; give the files of one recording",
    )
    dump_passes(b, 1, {7: ONES[:1]}, MAPS[:1])
    complains(
        pattern,
        f"{b}: last_physical_to_logical_map is of 1 layers and 4 experts, and that of a.pt of 2 "
        "and "
        "4; give dumps of one model",
    )
    dump_stat(b, np.ones((1, L, E)))
    complains(
        pattern,
        "{path}: b.pt is a dump of mode stat, and a.pt of another mode; give the files of one "
        "recording",
    )
    dump_stat(a, np.ones((1, L, E + 1)))
    complains(
        pattern,
        f"{b}: logical_count has shape (1, 2, 4), and that of a.pt (1, 2, 5); give dumps of one "
        "model",
    )


def test_pattern_and_folder_without_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_load(tmp_path / "*.pt")
    complains(
        tmp_path,
        "{path}: no .pt file in this folder; give the recorder's",
        format="sglang-recorder",
    )


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


def test_code_in_a_pickle_is_not_run(tmp_path):
    path = save(tmp_path / "x.pt", {"logical_count": Bomb(tmp_path / "ran")})
    with pytest.raises(FileFormatError, match="which is not a plain value"):
        read_load(path)
    assert not (tmp_path / "ran").exists()


def test_numpy_in_a_pickle(tmp_path):
    with pytest.raises(FileFormatError, match="save a tensor, not a NumPy array; only tensors"):
        read_load(save(tmp_path / "x.pt", {"logical_count": np.ones((2, 2))}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([1]), "this is not a file that torch.save wrote (torch 1.6 or newer): it is "
                            "a "
         "Python pickle"),
        (b"hello", "this is not a file that torch.save wrote (torch 1.6 or newer): it starts with "
         "b'hello'"),
    ],
)  # fmt: skip
def test_wrong_kind(tmp_path, content, message):
    (tmp_path / "x.pt").write_bytes(content)
    complains(tmp_path / "x.pt", "{path}: " + message)


def test_cut_off(tmp_path):
    path = dump_stat(tmp_path / "x.pt", np.ones((1, L, E)))
    path.write_bytes(path.read_bytes()[:-40])
    complains(
        path,
        "{path}: this is not a file that torch.save wrote (torch 1.6 or newer): it is cut off or "
        "damaged",
    )


def repacked(path, compression=zipfile.ZIP_STORED, **changed):
    """Write the members of an archive anew, some of them with other content."""
    with zipfile.ZipFile(path) as archive:
        members = {i.filename: archive.read(i) for i in archive.infolist()}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, changed.get(name.rpartition("/")[2], content))
    path.write_bytes(out.getvalue())


def test_compressed_members(tmp_path):
    path = dump_stat(tmp_path / "x.pt", np.ones((1, L, E)))
    repacked(path, zipfile.ZIP_DEFLATED)
    with pytest.raises(FileFormatError, match=r"data\.pkl is compressed or larger than the file"):
        read_load(path)


def hostile(value, protocol=2):
    return pickle.dumps({"logical_count": value}, protocol)


KEYS = "it has a dict whose keys are no texts and no numbers below 65536"
DEEP = ()
for _ in range(500):
    DEEP = (DEEP,)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (hostile({DEEP: 1}), KEYS),
        (hostile({2**61 - 1: 1}), KEYS),
        (hostile(set()), "it names __builtin__.set, which is not a plain value"),
        (hostile(bytearray(b"x")), "it names __builtin__.bytearray, which is not a plain value"),
        (hostile([1], protocol=4), "it is of protocol 4; torch.save writes 2"),
        (hostile([1])[:-3], "it is cut off or damaged"),
        (
            b"\x80\x02X\x0d\0\0\0logical_countccollections\nOrderedDict\n](K\x01K\x02e\x85R.",
            "it calls OrderedDict with values",
        ),
        (b"\x80\x02X\x0d\0\0\0logical_counth\x05.", "it is cut off or damaged"),
        (b"\x80\x02X\x0d\0\0\0logical_countI5\n.", "it has the step b'I', which no plain value "
         "needs"),
    ],
)  # fmt: skip
def test_pickles_that_ask_for_more_than_plain_values(tmp_path, content, why):
    path = dump_stat(tmp_path / "x.pt", np.ones((1, L, E)))
    repacked(path, **{"data.pkl": content})
    complains(
        path, f"{{path}}: its pickle is refused: {why}; only tensors and plain values are read"
    )


@pytest.mark.parametrize(
    ("storage", "steps", "message"),
    [
        (2**30, 2**27, "1073741824 numbers (134217728, 2, 4)"),
        (16, 2, "16 numbers (2, 2, 4)"),
    ],
)
def test_storage_that_claims_more_than_its_own(tmp_path, storage, steps, message):
    path = dump_stat(tmp_path / "x.pt", np.ones((1, L, E)))
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        content = archive.read(name)
    for old, new in (
        (b"q\x07K\x08t", b"q\x07J" + storage.to_bytes(4, "little") + b"t"),
        (b"K\x01K\x02K\x04\x87", b"J" + steps.to_bytes(4, "little") + b"K\x02K\x04\x87"),
    ):
        assert content.count(old) == 1
        content = content.replace(old, new)
    repacked(path, **{"data.pkl": content})
    complains(
        path,
        f"{{path}}: logical_count claims {message}, and the file has 32 bytes for them; save a "
        "contiguous tensor",
    )
