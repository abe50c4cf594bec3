"""Tables as text in any spelling, order, packing and size of a block."""

import csv
import gzip
import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from load_files import complains

from evenload.io import FileFormatError, read_load, read_trace, write_load
from evenload.io.columns import MEANINGS
from evenload.trace import Trace

SPELL = st.sampled_from([str.upper, str.title, str.lower])
FORMS = st.fixed_dictionaries(
    {
        "delimiter": st.sampled_from(",;\t"),
        "spell": SPELL,
        "join": st.sampled_from(["_", " ", "-", ""]),
        "names": st.tuples(*(st.sampled_from(names) for names in MEANINGS.values())),
        "order": st.permutations(range(6)),
        "packed": st.booleans(),
        "mark": st.booleans(),
        "end": st.sampled_from(["\n", "\r\n"]),
        "comment": st.booleans(),
        "windows": st.booleans(),
        "more": st.booleans(),
        "phases": st.sampled_from([None, ("prefill",), ("Decode ", "PREFILL")]),
    }
)
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))


def windows_of(trace):
    return np.stack([trace.read(t) for t in range(len(trace))])


@settings(max_examples=200, deadline=None)
@given(FORMS, SHAPES, st.randoms(use_true_random=False))
def test_any_spelling_of_a_long_table(tmp_path_factory, form, shape, random):
    shape = shape if form["windows"] else (1, *shape[1:])
    phases = form["phases"] or ("",)
    by_phase = np.array([random.randrange(1000) for _ in range(len(phases) * np.prod(shape))])
    by_phase = by_phase.reshape(-1, *shape)
    names = [form["spell"](name).replace("_", form["join"]) for name in form["names"]]
    cells = [
        [*index, int(load[index]), phase]
        for phase, load in zip(phases, by_phase, strict=True)
        for index in np.ndindex(shape)
    ]
    random.shuffle(cells)
    there = form["windows"], True, True, True, form["phases"] is not None, form["more"]
    columns = [i for i in form["order"] if there[i]]
    out = io.StringIO()
    if form["comment"]:
        out.write(f"# made by hand{form['end']}")
    writer = csv.writer(out, delimiter=form["delimiter"], lineterminator=form["end"])
    for row in ([*names, "who"], *([*row, "x, y"] for row in cells)):
        writer.writerow([row[i] for i in columns])
    content = out.getvalue().encode("utf-8-sig" if form["mark"] else "utf-8")
    path = tmp_path_factory.getbasetemp() / ("any.csv.gz" if form["packed"] else "any.csv")
    path.write_bytes(gzip.compress(content) if form["packed"] else content)
    trace = read_trace(path, num_experts=shape[2])
    np.testing.assert_array_equal(windows_of(trace), by_phase.sum(axis=0))
    for phase, load in zip(form["phases"] or (), by_phase, strict=form["phases"] is not None):
        np.testing.assert_array_equal(windows_of(trace.phases[phase.strip().lower()]), load)
    assert any("'who' is not read" in note for note in trace.notes) == form["more"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=4), min_size=1, max_size=6))
def test_what_is_written_is_read_again_or_refused(tmp_path_factory, rows):
    width = min(map(len, rows))
    expected = np.array([row[:width] for row in rows])
    path = tmp_path_factory.getbasetemp() / "again.csv"
    write_load(path, Trace(expected[None]))
    np.testing.assert_array_equal(read_load(path).load, expected)


def test_blocks_of_a_long_text(tmp_path, monkeypatch):
    """Windows are read from their place, whatever the size of a block."""
    from evenload.io import csv as text

    expected = np.random.default_rng(1).integers(0, 99, (6, 3, 4))
    cells = [f"{t},{i},{e},{expected[t, i, e]}\n" for t, i, e in np.ndindex(expected.shape)]
    for block in (1, 7, 100, 10**6):
        monkeypatch.setattr(text, "BLOCK", block)
        for name, content in (
            ("x.csv", "window,layer,expert,count\n" + "".join(cells)),
            ("y.csv", "window,layer,expert,count\n" + "\n#x\n".join("".join(cells).split("\n"))),
        ):
            path = tmp_path / name
            path.write_text(content)
            trace = read_trace(path)
            np.testing.assert_array_equal(list(trace), expected)
            np.testing.assert_array_equal(trace.window(2), expected[2])
    path.write_text("1,2\n3,4\n\n5,6\n")
    monkeypatch.setattr(text, "BLOCK", 1)
    complains(path, "{path}, line 3: 0 columns, and line 1 has 2; every row needs one column an "
              "expert")  # fmt: skip


@pytest.mark.parametrize("end", [10, 30, 60])
def test_damaged_gzip(tmp_path, end):
    path = tmp_path / "x.csv.gz"
    content = gzip.compress(b"layer,expert,count\n" + b"0,0,1\n0,1,2\n")
    path.write_bytes(content[: min(end, len(content) - 9)])
    with pytest.raises(FileFormatError, match=f"^{re.escape(str(path))}: this is not comma-sep"):
        read_load(path)
