"""Load files that cannot be read, each with its exact complaint."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from load_files import LOAD, TRACE, complains, save

from evenload.io import FileFormatError, max_bytes, read_load


@pytest.mark.parametrize("ending", [".npz", ".npy", ".csv", ".json"])
def test_missing(tmp_path, ending):
    with pytest.raises(FileNotFoundError) as caught:
        read_load(tmp_path / f"x{ending}")
    assert caught.value.filename == str(tmp_path / f"x{ending}")


@pytest.mark.parametrize("ending", [".npz", ".npy", ".csv", ".json"])
def test_empty(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    path.touch()
    complains(path, "{path}: the file is empty (0 bytes)")


def test_folder(tmp_path):
    complains(tmp_path, "{path}: this is a folder; give a file")


@pytest.mark.parametrize(("name", "what"), [("x.dat", "the ending '.dat'"), ("x", "no ending")])
def test_unknown_ending(tmp_path, name, what):
    path = tmp_path / name
    path.write_text("1")
    complains(
        path,
        f"{{path}}: a file with {what} is not known as a load; use one of .csv, .csv.gz, "
        ".json, .jsonl, .npy, .npz, .parquet, .pt, .pth, .tsv, .tsv.gz",
    )


PNG = b"\x89PNG\r\n\x1a\n" + bytes(50)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (PNG, "it is a PNG image"),
        (pickle.dumps([1, 2]), "it is a Python pickle"),
        (b"hello, world", "it starts with b'hello, w'"),
        (
            b"version https://git-lfs.github.com/spec",
            "it is a Git LFS pointer (run `git lfs pull`)",
        ),
    ],
)
@pytest.mark.parametrize(("ending", "what"), [(".npz", ".npz archive"), (".npy", ".npy file")])
def test_wrong_kind(tmp_path, content, kind, ending, what):
    path = tmp_path / f"x{ending}"
    path.write_bytes(content)
    complains(path, f"{{path}}: this is not a {what}: {kind}")


def test_npy_named_npz(tmp_path):
    save(tmp_path / "x.npy", LOAD).rename(tmp_path / "x.npz")
    complains(
        tmp_path / "x.npz", "{path}: this is not a .npz archive: it is a .npy file (rename it)"
    )


def test_png_named_csv_or_json(tmp_path):
    for name in ("x.csv", "x.json"):
        (tmp_path / name).write_bytes(PNG)
    decode = "'utf-8' codec can't decode byte 0x89 in position 0: invalid start byte"
    complains(tmp_path / "x.csv", f"{{path}}: this is not comma-separated text ({decode})")
    complains(tmp_path / "x.json", f"{{path}}: this is not JSON ({decode})")


def test_truncated_npz(tmp_path):
    path = save(tmp_path / "x.npz", LOAD)
    path.write_bytes(path.read_bytes()[:-30])
    complains(path, "{path}: the archive is cut off or damaged")


def test_damaged_npz(tmp_path):
    path = save(tmp_path / "x.npz", LOAD)
    content = bytearray(path.read_bytes())
    content[content.index(LOAD.tobytes())] ^= 0xFF
    path.write_bytes(content)
    complains(
        path,
        "{path}, key 'load': the archive is cut off or damaged (Bad CRC-32 for file 'load.npy')",
    )


def test_truncated_npy(tmp_path):
    path = save(tmp_path / "x.npy", LOAD)
    path.write_bytes(path.read_bytes()[:-8])
    complains(
        path,
        "{path}: the array is cut off: shape (3, 8) of int64 takes 192 bytes, and 184 are there",
    )


def test_npy_header_that_claims_more_than_there_is(tmp_path):
    """A few bytes must not make us reserve terabytes."""
    header = io.BytesIO()
    claims = {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**3, 10**3)}
    np.lib.format.write_array_header_1_0(header, claims)
    path = tmp_path / "x.npy"
    path.write_bytes(header.getvalue())
    complains(
        path,
        "{path}: the array is cut off: shape (1000000, 1000, 1000) of float64 takes 8000000000000 "
        "bytes, and 0 are there",
    )


def test_array_too_large_to_read_at_once(tmp_path):
    path = save(tmp_path / "x.npz", LOAD)
    with max_bytes(191):
        complains(
            path,
            "{path}, key 'load': an array of shape (3, 8) takes 192 bytes, more than the 191 that "
            "are held at once; where there is memory for it, use --max-bytes 192 "
            "(evenload.io.max_bytes)",
        )
        with max_bytes(192):
            assert read_load(path).load.tolist() == LOAD.tolist()


@pytest.mark.parametrize("end", [0, 6, 9, 40])
def test_truncated_npy_header(tmp_path, end):
    path = save(tmp_path / "x.npy", LOAD)
    path.write_bytes(path.read_bytes()[: end or 5])
    message = "header is cut off or damaged" if end else "this is not a .npy file"
    with pytest.raises(FileFormatError, match=message):
        read_load(path)


@pytest.mark.parametrize(("ending", "key"), [(".npz", ", key 'load'"), (".npy", "")])
def test_pickle_inside_is_refused(tmp_path, ending, key):
    save(tmp_path / f"x{ending}", np.array([[{}, 1]], dtype=object))
    complains(
        tmp_path / f"x{ending}",
        f"{{path}}{key}: the array is a pickle of Python objects, which could run any code when "
        "read, and is refused; save plain numbers",
    )


def test_pickle_inside_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    array = np.empty((1, 1), dtype=object)
    array[0, 0] = Bomb()
    with pytest.raises(FileFormatError):
        read_load(save(tmp_path / "x.npz", array))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("array", "dtype"),
    [(LOAD > 5, "bool"), (LOAD + 0j, "complex128"), (LOAD.astype(str), "<U21")],
)
def test_dtypes_that_are_no_tokens(tmp_path, array, dtype):
    np.savez(tmp_path / "x.npz", load=array)
    complains(
        tmp_path / "x.npz",
        f"{{path}}, key 'load': the array has dtype {dtype}; save an integer or floating dtype",
    )


def test_npz_without_a_known_key(tmp_path):
    np.savez(tmp_path / "x.npz", seen=LOAD, ids=LOAD[0])
    complains(
        tmp_path / "x.npz",
        "{path}: no key is known as loads; found: seen ([3, 8]), ids ([8]); name the one, as --key "
        "seen (key=)",
    )
    np.testing.assert_array_equal(read_load(tmp_path / "x.npz", key="seen").load, LOAD)
    with zipfile.ZipFile(tmp_path / "none.npz", "w"):
        pass
    complains(tmp_path / "none.npz", "{path}: no key is the loads: there are none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "1,2,3\n4,5\n",
            ", line 2: 2 columns, and line 1 has 3; every row needs one column an expert",
        ),
        (
            "1,2\n\n3,4\n",
            ", line 2: 0 columns, and line 1 has 2; every row needs one column an expert",
        ),
        ("a,b\n1,2\n3,x\n", ", line 3, column 2: 'x' is not a number"),
        ("1,2\n3,\n", ", line 2, column 2: '' is not a number"),
        ("a,b\n", ": no row of numbers; write one row a layer"),
        ("\n", ": no row of numbers; write one row a layer"),
        (
            ",0,1\n0,5,6\n",
            ", line 1: the first column is headed '' and would be read as an expert; leave row "
            "numbers out, or head it layer",
        ),
    ],
)
def test_csv_complaints(tmp_path, text, message):
    path = tmp_path / "x.csv"
    path.write_text(text)
    complains(path, "{path}" + message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[[1, 2",
            ", line 1, column 7: this is not JSON, or it is cut off (Expecting ',' delimiter)",
        ),
        (
            '{"a": 1, "b": 2}',
            ": no key is known as loads; found: a (int), b (int); "
            "use load, or layers by number, or name one by --key (key=)",
        ),
        ("{}", ": no key is the loads: there are none"),
        ("3", ": the file holds 3; use nested lists or an object"),
        ("[[1, 2], [3]]", ": load[1] has shape [1], and load[0] has [2]; make all of one shape"),
        ("[[1, null]]", ": load[0][1] is null; use a number"),
        ("[[1, true]]", ": load[0][1] is true; use a number"),
        ('[["1", "2"]]', ': load[0][0] is "1"; use a number'),
        ("[[[[[1]]]]]", ": load[0][0][0][0] is nested deeper than [windows][layers][experts]"),
        ('{"load": [[]]}', ": the load has 0 experts (1, 0); use at least 1"),
        ("[]", ": the load has 0 experts (0,); use at least 1"),
    ],
)
def test_json_complaints(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_text(text)
    complains(path, "{path}" + message)


def test_deeply_nested_json(tmp_path):
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(FileFormatError, match="this is not JSON"):
        read_load(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((), "the load has 0 dimensions (); use [layers, experts] or [windows, layers, experts]"),
        ((0, 8), "the load has 0 layers (0, 8); use at least 1"),
        ((0, 3, 8), "the load has 0 windows (0, 3, 8); use at least 1"),
        (
            (1, 1, 3, 8),
            "the load has 4 dimensions (1, 1, 3, 8); use [layers, experts] or "
            "[windows, layers, experts]",
        ),
    ],
)
def test_shapes_that_are_no_load(tmp_path, shape, message):
    complains(save(tmp_path / "x.npy", np.ones(shape)), "{path}: " + message)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_numbers_that_are_no_tokens(tmp_path, value):
    """In one window of a trace too, where the sum would hide a negative number."""
    trace = TRACE.astype(float)
    trace[1, 2, 3] = value
    complains(
        save(tmp_path / "x.npy", trace),
        f"{{path}}: window 1: load[2, 3]={value} is not a finite number >= 0; use 0 or more",
        error=ValueError,
    )


def test_number_of_experts_that_does_not_fit(tmp_path):
    path = save(tmp_path / "x.npy", LOAD)
    complains(
        path,
        "{path}: the file has 8 experts per layer, and num_experts=9 was given; use 8, or leave it "
        "out",
        num_experts=9,
    )
    complains(path, "num_experts=0 is less than 1; use 1 or more", error=ValueError, num_experts=0)
