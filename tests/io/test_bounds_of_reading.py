"""Files made to take memory, time or a terminal: refused in one sentence, and the way out works."""

import errno
import gzip
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from load_files import complains

from evenload.io import FileFormatError, max_bytes, read_load, read_topk, read_trace
from evenload.io.files import MOST_BYTES, check_place

ESCAPES = "a\x1b[2J\a\nb"
SHOWN = "a\\x1b[2J\\x07\\nb"


def refused(path, message, **how):
    """The file must be refused with `message`, at once and with little memory."""
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(FileFormatError, match=re.escape(message)) as caught:
            read_load(path, **how)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 10
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(path))
    return str(caught.value)


def advised(message):
    return int(re.search(r"--max-bytes (\d+)", message)[1])


# ---- only regular files --------------------------------------------------------------------------

ENDINGS = [".json", ".csv", ".npz", ".npy", ".pt", ".jsonl", ".parquet"]
REGULAR = "and only regular files are read; write what it gives to a file"


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_device_is_not_read(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    path.symlink_to("/dev/zero")
    complains(path, f"{{path}}: this is a device, {REGULAR}")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has none")
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_pipe_is_not_waited_for(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    os.mkfifo(path)
    complains(path, f"{{path}}: this is a pipe, {REGULAR}")
    complains(path, f"{{path}}: this is a pipe, {REGULAR}", format="json")
    path.unlink()
    if ending == ".csv":
        path.write_text("1,2\n")
        assert read_load(path).load.tolist() == [[1, 2]]


def test_a_socket_is_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path may not be long
    with socket.socket(socket.AF_UNIX) as there:
        there.bind("x.csv")
        complains("x.csv", f"{{path}}: this is a socket, {REGULAR}")


def test_pipes_in_a_folder_are_left_out(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text("[[[1, 2]]]\n")
    file = read_load(tmp_path, format="vllm-routed-experts", num_experts=4)
    assert file.load.tolist() == [[0, 1, 1, 0]]


# ---- a stated limit before memory is taken -------------------------------------------------------


def bomb(path, shape, key="load", dtype="<f8"):
    """A .npz whose member says so many zeros, packed a thousand times smaller."""
    header = io.BytesIO()
    claims = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, claims)
    left = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(f"{key}.npy", "w", force_zip64=True) as member,
    ):
        member.write(header.getvalue())
        while left > 0:
            left -= member.write(bytes(min(left, 2**24)))
    return path


def test_an_archive_that_unpacks_to_more_than_the_limit(tmp_path):
    path = bomb(tmp_path / "x.npz", (2**11, 2**16 + 1))
    assert path.stat().st_size < 2**24
    refused(path, f"takes {2**30 + 2**14} bytes, more than the {MOST_BYTES} that are held at once")


@pytest.mark.parametrize("key", ["load", "topk"])
def test_the_advice_is_to_be_followed(tmp_path, key):
    array = np.arange(32).reshape(2, 4, 4)
    path = tmp_path / "x.npz"
    np.savez(path, **{key: array})
    with max_bytes(8):
        message = refused(path, "more than the 8 that are held at once")
    if key == "topk":  # which is read, and then counted
        with max_bytes(advised(message)):
            message = refused(path, "an array of shape (4, 32) takes 1024 bytes")
    with max_bytes(advised(message)):
        assert read_load(path).load.size
    wrong = pytest.raises(ValueError, match=r"^max_bytes=0 is less than 1; use 1 or more$")
    with wrong, max_bytes(0):
        pass


@pytest.mark.parametrize(
    ("name", "text", "experts"),
    [
        ("x.json", "[[1, 2], [3, 4]]", 2),
        ("x.csv", "1,2,3\n3,4,5\n", 3),
        ("x.jsonl", '{"routed_experts": [[[1, 2]]]}\n', 4),
    ],
)
def test_texts_meet_the_limit_too(tmp_path, name, text, experts):
    path = tmp_path / name
    path.write_text(text)
    with max_bytes(8):
        message = refused(path, "more than the 8 that are held at once", num_experts=experts)
    with max_bytes(max(advised(message), 64)):
        assert read_load(path, num_experts=experts).load.shape[1] == experts


@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
def test_a_table_of_text_says_what_all_of_it_takes(tmp_path, ending):
    """Which is found out at the first block that is too much."""
    path = tmp_path / f"x.{ending}"
    rows = b"1,2,3\n" * 200_000
    path.write_bytes(gzip.compress(rows) if ending.endswith("gz") else rows)
    with max_bytes(2**20):
        message = refused(path, "more than the 1048576 that are held at once")
    with max_bytes(advised(message)):
        assert read_load(path).load.shape == (200_000, 3)


def test_a_quote_that_is_never_closed_takes_one_pass(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('1,2\n"' + "\n1" * 500_000)
    refused(path, "this is not comma-separated text")


def test_names_that_are_there_twice_are_found_in_one_pass(tmp_path):
    names = [f"k{n}" for n in range(60_000)]
    pairs = ",".join(f'"{name}": 1' for name in [*names, names[-1]])
    (tmp_path / "x.json").write_text(f"{{{pairs}}}")
    refused(tmp_path / "x.json", "the key 'k59999' is there twice; leave one out")
    columns = ",".join([*names, names[-1]])
    (tmp_path / "x.csv").write_text(f"{columns}\n{','.join('1' * 60_001)}\n")
    refused(tmp_path / "x.csv", "two columns are named 'k59999'; leave one out")


def test_routed_experts_of_more_experts_and_layers_than_fit(tmp_path):
    """8 MB of numbers would be counted into half a terabyte."""
    topk = np.zeros((1, 2**20, 1), np.uint16)
    topk[0, 0, 0] = 2**16 - 1
    np.savez_compressed(tmp_path / "x.npz", topk=topk)
    refused(tmp_path / "x.npz", f"an array of shape ({2**20}, {2**16}) takes {2**39} bytes")
    np.savez(tmp_path / "x.npz", topk=np.zeros((1, 1, 1), int), num_experts=2**40)
    refused(tmp_path / "x.npz", f"num_experts={2**40} is more than 65536; use 65536 or less")


def test_the_limit_goes_along_to_where_windows_are_read_later(tmp_path):
    import pickle

    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"routed_experts": [[[1, 2]]] * 20}) + "\n")
    with max_bytes(2**30 + 1):
        trace = read_trace(path, num_experts=4)
    with max_bytes(8):  # a worker with a limit of its own
        assert pickle.loads(pickle.dumps(trace)).window(0).tolist() == [[0, 20, 20, 0]]


def test_keys_of_an_archive_are_not_all_shown(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for number in range(60_000):
            archive.writestr(f"k{number}.npy", b"")
    with pytest.raises(
        FileFormatError, match=r"found: k0 \(\[\]\), .*, k7 \(\[\]\), \.\.\.; use load,"
    ):
        read_load(tmp_path / "x.npz")


def test_keys_of_an_object_are_not_all_shown(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({f"k{n}" * 50: n for n in range(9000)}))
    told = refused(tmp_path / "x.json", "no key is known as loads; found: k0k0")
    assert "k7k7" in told
    assert "k8" not in told


def test_a_tensor_that_stands_still_in_memory(tmp_path):
    """1.6 kB that say 2**40 numbers, all of them the same one."""
    torch = pytest.importorskip("torch")
    path = tmp_path / "x.pt"
    torch.save(torch.ones(1, 1, 1, dtype=torch.int64).expand(2**20, 2**10, 2**10), path)
    assert path.stat().st_size < 2**11
    refused(path, f"the tensor claims {2**40} numbers")
    torch.save(torch.ones(1, 1, 1, dtype=torch.int64).expand(2, 3, 4).contiguous(), path)
    assert read_load(path).load.tolist() == [[2.0] * 4] * 3


def test_arrays_of_a_later_key_twice_in_json(tmp_path):
    (tmp_path / "x.json").write_text('{"load": [[1, 2]], "load": [[3, 4]]}')
    refused(tmp_path / "x.json", "the key 'load' is there twice; leave one out")


# ---- padding -------------------------------------------------------------------------------------


def test_padding_is_skipped_and_told(tmp_path):
    topk = np.array([[[0, 1], [2, 3]], [[-1, -1], [-1, -1]], [[1, 2], [-1, -1]]])
    np.savez(tmp_path / "x.npz", topk=topk, num_experts=4)
    file = read_load(tmp_path / "x.npz")
    assert file.load.tolist() == [[1, 2, 1, 0], [0, 0, 1, 1]]
    note = f"{tmp_path / 'x.npz'}: 3 of 6 rows of experts are -1, which is padding, and skipped"
    assert file.notes == (note,)
    assert read_topk(tmp_path / "x.npz").tolist() == topk[:1].tolist()
    np.savez(tmp_path / "x.npz", topk=topk[1:], num_experts=4)
    assert read_topk(tmp_path / "x.npz") is None


def test_padding_of_requests(tmp_path):
    rows = [[[[1, 2], [0, 3]], [[-1, -1], [-1, -1]]], [[[0, 1], [0, 1]]]]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    trace = read_trace(path, num_experts=4)
    assert [w.tolist() for w in trace] == [
        [[0, 1, 1, 0], [1, 0, 0, 1]],
        [[1, 1, 0, 0], [1, 1, 0, 0]],
    ]
    assert trace.notes == (f"{path}: 2 of 6 rows of experts are -1, which is padding, and skipped",)
    assert read_topk(path).tolist() == [rows[0][0], rows[1][0]]


# ---- names ---------------------------------------------------------------------------------------


def test_a_name_that_would_move_the_cursor(tmp_path):
    path = tmp_path / f"{ESCAPES}.csv"
    path.write_text("1,2\n1,x\n")
    with pytest.raises(FileFormatError) as caught:
        read_load(path)
    assert str(caught.value).startswith(f"{tmp_path}/{SHOWN}.csv, ")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no/x.json", "{target}: the folder {tmp}/no does not exist; make it first"),
        ("file/x.json", "{target}: the folder {tmp}/file is not a folder; give another"),
        ("folder", "{target}: this is a folder; give a file in it"),
    ],
)
def test_places_that_nothing_is_written_to(tmp_path, target, message):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    place = tmp_path / target
    wanted = message.format(target=place, tmp=tmp_path)
    with pytest.raises(ValueError, match=f"^{re.escape(wanted)}$"):
        check_place(place)
    check_place(tmp_path / "folder" / "x.json")
    (tmp_path / "link").symlink_to(place)
    with pytest.raises(ValueError, match="folder"):
        check_place(tmp_path / "link")


def test_the_system_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        read_load(tmp_path / "x.csv")
    assert caught.value.errno == errno.ENOENT


# ---- memory in proportion ------------------------------------------------------------------------

_READ = """
import sys
from evenload.io import read_load, read_trace
read = {"load": read_load, "trace": read_trace}[sys.argv[1]]
def peak():
    status = open("/proc/self/status").read()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])
read(sys.argv[2])
before = peak()
file = read(sys.argv[3])
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak")
@pytest.mark.parametrize(("name", "shape"), [("x.csv", (2_000_000, 4)), ("x.json", (900, 16, 256))])
def test_memory_of_a_large_text(tmp_path, name, shape):
    """At most three times the array that comes back."""
    small, large = tmp_path / f"small{name}", tmp_path / name
    row = ",".join(["1234567"] * shape[-1])
    if name == "x.csv":
        small.write_text("1,2\n")
        large.write_text(f"{row}\n" * shape[0])
    else:
        small.write_text("[[[1, 2]]]")
        layers = ",".join([f"[{row}]"] * shape[1])
        large.write_text(f"[{','.join([f'[{layers}]'] * shape[0])}]")
    kind = "load" if len(shape) == 2 else "trace"
    run = [sys.executable, "-c", _READ, kind, str(small), str(large)]
    grown = int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    assert grown < 3 * 8 * int(np.prod(shape))
