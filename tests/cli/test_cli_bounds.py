"""What a file, its name or its size may not do to the command line."""

import json
import re

import numpy as np
import pytest
from command import PRICED, fails, process, run

from evenload.cli import COMMANDS, parser_of
from evenload.io import read_placement_file

LOAD = np.random.default_rng(3).integers(1, 1000, (4, 3, 8))
# ESC, BEL, a newline, a C1 control, a right-to-left mark, and a byte that is no UTF-8.
RAW = "\x1b[2J\a\n\x9b\u202e\udcff"
SHOWN = "\\x1b[2J\\x07\\n\\x9b\\u202e\\udcff"


@pytest.fixture
def odd(tmp_path):
    """A folder of an odd name, with a trace and a placement in files of odd names."""
    folder = tmp_path / f"d{RAW}"
    folder.mkdir()
    trace, placement = folder / f"t{RAW}.npz", folder / f"p{RAW}.json"
    np.savez(trace, load=LOAD)
    result = run("plan", trace, "--gpus", 4, "--slots", 12, "-o", placement)
    assert result.exit_code == 0, result.stderr
    return trace, placement


def commands(trace, placement):
    folder = trace.parent
    on = ("--gpus", 4, "--slots", 12)
    replay = ("replay", trace, *on, *PRICED, "--policy", "never", "--oracle", "none")
    return [
        ("plan", trace, *on, "-o", placement),
        ("plan", trace, *on, "--current", placement),
        ("plan", folder / f"no{RAW}.npz", *on),
        ("plan", trace, *on, "-o", folder / f"x.{RAW}"),
        ("plan", trace, *on, "--solver", RAW),
        ("plan", trace, *on, f"--{RAW}"),
        (RAW,),
        ("evaluate", trace, placement),
        ("inspect", trace),
        ("inspect", placement),
        ("convert", placement, folder / f"q{RAW}.npz"),
        ("convert", placement, folder / f"no{RAW}" / "q.npz"),
        ("convert", trace, folder / f"q{RAW}.npy"),
        (*replay, "--save", folder / f"r{RAW}.npz"),
        ("replay", trace, *on, *PRICED, "--policy", RAW),
        ("report", folder / f"r{RAW}.npz"),
        ("report", folder / f"no{RAW}.npz"),
        ("report", trace),
        ("sweep", trace, *on, *PRICED, "--policy", "never", "--oracle", "none", "--workers", 1,
         "-o", folder / f"s{RAW}.csv"),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(19))
def test_no_name_reaches_the_terminal_raw(odd, number):
    every = commands(*odd)
    assert len(every) == 19
    if every[number][0] == "report":
        run(*every[13])
    result = run(*every[number])
    assert result.exception is None
    assert result.exit_code in (0, 2)
    told = result.stdout + result.stderr
    assert not [c for c in told if not (c.isprintable() or c == "\n")]
    assert f"[2J{SHOWN[7:]}" in told or "report" in every[number] or "--workers" in every[number]
    assert not any(line.startswith("\\x9b") for line in told.splitlines())


def test_what_stands_in_a_file_does_not_either(tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"physical_to_logical_map": [[0, 1]], f"k{RAW}": 1, "load": {}}))
    for command in (("inspect", path), ("evaluate", path, path)):
        told = run(*command).stderr
        assert not [c for c in told if not (c.isprintable() or c == "\n")]


# ---- outputs -------------------------------------------------------------------------------------

OUTPUTS = [
    ("plan", "no.npz", "--gpus", 4, "-o", "{}.json"),
    ("plan", "no.npz", "--gpus", 4, "--plot", "{}.png"),
    ("size", "no.npz", "--gpus", 4, "--plot", "{}.png"),
    ("evaluate", "no.npz", "no.json", "--plot", "{}.png"),
    ("convert", "no.npz", "{}.npy"),
    ("replay", "no.npz", "--gpus", 4, "--save", "{}.npz"),
    ("replay", "no.npz", "--gpus", 4, "--report", "{}.html"),
    ("report", "no.npz", "-o", "{}.html"),
    ("sweep", "no.npz", "--gpus", 4, "--slots", 12, "-o", "{}.csv"),
    ("demo", "--plot", "{}.svg"),
    ("demo", "--save-trace", "{}.npz"),
]


@pytest.mark.parametrize("command", OUTPUTS, ids=lambda c: f"{c[0]} {c[-2]}")
def test_an_output_into_a_missing_folder_is_refused_before_any_work(tmp_path, command):
    place = str(tmp_path / "there" / "x")
    words = [str(word).format(place) for word in command]
    fails(
        *words,
        error=f"{words[-1]}: the folder {tmp_path / 'there'} does not exist; make it first",
    )
    assert not (tmp_path / "there").exists()
    (tmp_path / "there").mkdir()  # as it says
    if command[0] != "demo":
        assert run(*words).stderr.endswith("no such file or directory\n")


def test_every_option_that_writes_a_file_is_tried():
    tried = {(command[0], command[-2]) for command in OUTPUTS} | {("convert", "OUT")}
    for name in COMMANDS:
        for action in parser_of(name)._actions:
            writes = re.match(r"(Write|Draw|Keep|Where)\b", action.help or "")
            if writes and action.metavar == "FILE":
                assert any((name, option) in tried for option in action.option_strings), action


# ---- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["plan", "evaluate", "inspect", "convert", "replay", "sweep"])
def test_the_limit_is_an_option_of_every_command_that_reads(tmp_path, command):
    trace, placement = tmp_path / "t.npz", tmp_path / "p.json"
    np.savez(trace, load=LOAD)
    run("plan", trace, "--gpus", 4, "-o", placement)
    words = {
        "plan": (trace, "--gpus", 4),
        "evaluate": (trace, placement),
        "inspect": (trace,),
        "convert": (trace, tmp_path / "x.npy"),
        "replay": (trace, "--gpus", 4, *PRICED, "--policy", "never", "--oracle", "none"),
        "sweep": (trace, "--gpus", 4, "--slots", 8, *PRICED, "--policy", "never",
                  "--oracle", "none", "--workers", 1, "-o", tmp_path / "s.csv"),
    }[command]  # fmt: skip
    fails(
        command, *words, "--max-bytes", 191,
        error=f"{trace}, key 'load': an array of shape (3, 8) takes 192 bytes, more than the 191 "
        "that are held at once; where there is memory for it, use --max-bytes 192 "
        "(evenload.io.max_bytes)",
    )  # fmt: skip
    if command == "evaluate":
        return  # the placement is a text of some more bytes
    result = run(command, *words, "--max-bytes", 192)
    assert result.exit_code == 0, result.stderr


def test_what_never_ends_is_refused_at_once(tmp_path):
    (tmp_path / "x.json").symlink_to("/dev/urandom")
    result = process("inspect", tmp_path / "x.json", timeout=60)
    assert result.returncode == 2
    assert result.stderr == (
        f"error: {tmp_path}/x.json: this is a device, and only regular files are read; write what "
        "it gives to a file\n"
    )


# ---- placements of other layers ------------------------------------------------------------------


def test_the_layers_of_a_draft_model(tmp_path):
    """What TensorRT-LLM dies without: a key for each layer that it looks up."""
    pytest.importorskip("yaml")
    loads, p, q = tmp_path / "t.npz", tmp_path / "p.yaml", tmp_path / "q.yaml"
    np.savez(loads, load=LOAD, layer_ids=[1, 2, 4])
    assert run("plan", loads, "--gpus", 4, "--slots", 12, "-o", p).exit_code == 0
    words = ("convert", p, q, "--gpus", 4, "--layers", "1-5")
    fails(
        *words,
        error=f"{p}: the placement has no layer 3 of the model; it has 1 to 4; name those alone, "
        "or put experts in order into the others with `evenload convert --fill` (fill=True)",
    )
    result = run(*words, "--fill", "--verbose")
    assert result.exit_code == 0, result.stderr
    assert (
        f"note: {p}: 2 layers are not in it and have experts in order, as engines start (model "
        "layers 3, 5)\n"
    ) in result.stderr
    before, after = (read_placement_file(path, num_gpus=4) for path in (p, q))
    assert after.layers.ids == (1, 2, 3, 4, 5)
    rows = after.placement.physical_to_logical
    assert rows[[0, 1, 3]].tolist() == before.placement.physical_to_logical.tolist()
    assert rows[[2, 4]].tolist() == [[*range(8), 0, 1, 2, 3]] * 2
    fails("convert", loads, tmp_path / "x.npy", "--layers", "1,2,4", "--fill",
          error="--fill puts experts into a placement's layers, and these are loads")  # fmt: skip


def test_a_placement_of_more_layers_than_the_loads(tmp_path):
    loads, every, some = tmp_path / "l.csv", tmp_path / "every.json", tmp_path / "some.json"
    np.savetxt(loads, LOAD.sum(axis=0), fmt="%d", delimiter=",")
    every.write_text(json.dumps({"physical_to_logical_map": [list(range(8))] * 5}))
    fails(
        "evaluate", loads, every, "--gpus", 4,
        error=f"{every} places 5 layers x 8 experts, and the loads have 3 x 8; where the loads are "
        "of some of its layers, take those first, e.g. `evenload convert PLACEMENT OUT --layers "
        "2-4`",
    )  # fmt: skip
    assert run("convert", every, some, "--gpus", 4, "--layers", "2-4").exit_code == 0
    assert run("evaluate", loads, some).exit_code == 0


def test_loads_of_more_layers_than_the_placement(tmp_path):
    loads, some, place = tmp_path / "l.csv", tmp_path / "some.npy", tmp_path / "p.json"
    load = LOAD.sum(axis=0)
    np.savetxt(loads, np.vstack([load[:1], load, load[:1]]), fmt="%d", delimiter=",")
    place.write_text(json.dumps({"physical_to_logical_map": [list(range(8))] * 3}))
    fails(
        "evaluate", loads, place, "--gpus", 4,
        error=f"{place} places 3 layers x 8 experts, and the loads have 5 x 8; where the placement "
        "is of some of their layers, take those first, e.g. `evenload convert LOADS OUT --layers "
        "0-2`",
    )  # fmt: skip
    result = run("convert", loads, some, "--layers", "1-3")
    assert result.exit_code == 0
    assert "note: IN names no layers; its rows are taken as the model's 0 to 4" in result.stderr
    assert np.load(some).tolist() == [load.tolist()]
    assert run("evaluate", some, place, "--gpus", 4).exit_code == 0
    fails("convert", loads, some, "--layers", "3-5",
          error="--layers names 3 layers, and there are 5; name 5")  # fmt: skip


def test_a_placement_without_numbers_of_more_layers(tmp_path):
    path, out = tmp_path / "p.json", tmp_path / "q.json"
    loads = tmp_path / "l.csv"
    loads.write_text("1,2,3,4\n" * 5)
    assert run("plan", loads, "--gpus", 2, "-o", path).exit_code == 0
    assert run("convert", path, out, "--layers", "2-4").exit_code == 0
    assert read_placement_file(out).layers.ids == (2, 3, 4)


def test_maps_of_different_slots_name_the_layers(tmp_path):
    path = tmp_path / "p.json"
    rows = [[0, 1, 0, 1]] * 2 + [[0, 1]]
    path.write_text(json.dumps({"physical_to_logical_map": rows}))
    fails(
        "inspect", path, "--gpus", 2,
        error=f"{path}: the number of slots differs by layer: 4 in layer 0, 1; 2 in layer 2; use "
        "as many in each layer, or a file for each number of slots",
    )  # fmt: skip
    for part in (rows[:2], rows[2:]):
        path.write_text(json.dumps({"physical_to_logical_map": part}))
        assert run("inspect", path, "--gpus", 2).exit_code == 0


def test_an_expert_map_of_vllm(tmp_path):
    torch = pytest.importorskip("torch")
    path, out = tmp_path / "map.pth", tmp_path / "p.json"
    first, second = [[0, -1, 1, -1], [-1, 0, -1, 1]], [[1, 0, -1, -1], [-1, -1, 1, 0]]
    torch.save(torch.tensor([first, second], dtype=torch.int32), path)
    assert run("convert", path, out).exit_code == 0
    file = read_placement_file(out)
    assert file.placement.physical_to_logical.tolist() == [[0, 2, 1, 3], [1, 0, 3, 2]]
    assert file.placement.cluster.num_gpus == 2
    loads = tmp_path / "loads.csv"
    loads.write_text("1,2,3,4\n5,6,7,8\n")
    assert run("evaluate", loads, path).exit_code == 0
    assert "a placement" in run("inspect", path).stdout
    fails(
        "plan", path, "--gpus", 2,
        error=f"{path}: the numbers are -1 or a place, as in a map [layers, ranks, experts]: this "
        "is a placement (evenload evaluate LOADS MAP, evenload convert MAP placement.json)",
    )  # fmt: skip
    for wrong, message in (
        ([first, [[0, 1, -1, 2], [-1, -1, 0, -1]]], "layer 1 has 3 experts on rank 0, and layer 0"),
        ([first, [[0, -1, 2, -1], [-1, 0, -1, 1]]], "a rank's places are not 0, 1, 2, ... each"),
    ):
        torch.save(torch.tensor(wrong), path)
        assert message in run("evaluate", loads, path).stderr
