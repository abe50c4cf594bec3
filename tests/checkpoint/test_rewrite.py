"""A reordered checkpoint, tensor by tensor; none of the quantised ones was ever run."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from checkpoints import (  # fmt: skip
    CONFIGS,
    FUSED,
    QUANTISED,
    content,
    load,
    make,
    moe_layers,
    permuted,
    random_order,
    save,
    tensors_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload.checkpoint import (
    ORDER_FILE,
    ExpertOrder,
    open_checkpoint,
    read_order,
    reorder_checkpoint,
    rewrite,
    undo_order,
)
from evenload.layers import ModelLayers

CASES = [(kind, "bf16") for kind in CONFIGS]
CASES += [("deepseek_v3", q) for q in QUANTISED] + [("gpt_oss", "mxfp4")]
CASES += [("mixtral", "awq"), ("qwen3_moe", "gptq"), ("qwen2_moe", "fp8")]


def order_of(kind, experts):
    return ExpertOrder(experts, ModelLayers(moe_layers(kind)))


def reorder(source, out, kind, seed=0):
    order = order_of(kind, random_order(kind, seed))
    notes = reorder_checkpoint(open_checkpoint(source), order, out)
    return order, notes


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        about = [(t.dtype, t.shape, t.tobytes()) for t in (found[name], tensor)]
        assert about[0] == about[1], name


def test_every_quantisation_has_a_fixture():
    assert len(FUSED["mxfp4"]) == 6
    assert {q for _, q in CASES} == {*QUANTISED, *FUSED}


@pytest.mark.parametrize(("kind", "quantised"), dict.fromkeys(CASES))
def test_each_tensor_is_where_its_expert_is_and_comes_back(tmp_path, kind, quantised):
    source = make(tmp_path / "model", kind, quantised)
    before = content(source)
    order, notes = reorder(source, tmp_path / "new", kind)
    assert notes == ()
    same(load(tmp_path / "new"), permuted(load(source), kind, order.experts))
    index = json.loads((tmp_path / "new" / "model.safetensors.index.json").read_text())
    reordered = open_checkpoint(tmp_path / "new")
    assert index["weight_map"].keys() == reordered.tensors.keys()
    undo_order(reordered, tmp_path / "back")
    assert content(tmp_path / "back") == before == content(source)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["mixtral", "gpt_oss"]), st.data(), st.integers(1, 4))
def test_any_order_of_any_layers(tmp_path_factory, kind, data, shards):
    folder = tmp_path_factory.mktemp("any")
    experts = np.array([data.draw(st.permutations(range(8))) for _ in moe_layers(kind)])
    source = make(folder / "model", kind, shards=shards)
    checkpoint, order = open_checkpoint(source), order_of(kind, experts)
    if not order.changes:
        return
    reorder_checkpoint(checkpoint, order, folder / "new")
    same(load(folder / "new"), permuted(load(source), kind, experts))
    reordered = open_checkpoint(folder / "new")
    assert read_order(folder / "new").source_digest is None
    assert reordered.digest_under(order.inverse) == checkpoint.digest
    undo_order(reordered, folder / "back")
    assert content(folder / "back") == content(source)


def test_a_second_order_goes_on_from_the_first(tmp_path):
    source = make(tmp_path / "model", "qwen3_moe")
    first, _ = reorder(source, tmp_path / "one", "qwen3_moe", 1)
    second, notes = reorder(tmp_path / "one", tmp_path / "two", "qwen3_moe", 2)
    assert len(notes) == 1
    assert "reordered before" in notes[0]
    both = read_order(tmp_path / "two")
    np.testing.assert_array_equal(both.experts, first.then(second).experts)
    same(load(tmp_path / "two"), permuted(load(source), "qwen3_moe", both.experts))
    undo_order(open_checkpoint(tmp_path / "two"), tmp_path / "back")
    assert content(tmp_path / "back") == content(source)


def test_whole_shards_that_do_not_change_are_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(rewrite, "_FICLONE", 0)  # of a file system without reflinks
    source = make(tmp_path / "model", "olmoe", shards=4)
    experts = np.tile(np.arange(8), (3, 1))
    experts[2, :2] = 1, 0  # all of it is in the last files
    checkpoint = open_checkpoint(source)
    reorder_checkpoint(checkpoint, order_of("olmoe", experts), tmp_path / "new")
    one, last = sorted(source.glob("*.safetensors"))[0], sorted(source.glob("*.safetensors"))[-1]
    assert (tmp_path / "new" / one.name).read_bytes() == one.read_bytes()
    assert one.samefile(tmp_path / "new" / one.name)
    assert not last.samefile(tmp_path / "new" / last.name)


def test_a_shard_that_cannot_be_shared_is_copied(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "no link")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    monkeypatch.setattr(rewrite, "fcntl", None)
    rewrite._share(make(tmp_path / "m", "olmoe") / "config.json", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "m" / "config.json").read_bytes()


def test_links_of_a_cache_are_followed(tmp_path):
    blobs = make(tmp_path / "blobs", "mixtral")
    (tmp_path / "snapshot").mkdir()
    for file in blobs.iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(file)
    order, _ = reorder(tmp_path / "snapshot", tmp_path / "new", "mixtral")
    assert not any(p.is_symlink() for p in (tmp_path / "new").iterdir())
    same(load(tmp_path / "new"), permuted(load(blobs), "mixtral", order.experts))


def test_bytes_are_copied_where_the_system_does_not(tmp_path, monkeypatch):
    source = make(tmp_path / "model", "gpt_oss")
    reorder(source, tmp_path / "new", "gpt_oss")

    def refuse(*_):
        raise OSError(errno.EXDEV, "not between these")

    monkeypatch.setattr(rewrite, "_SMALL", 0)
    monkeypatch.setattr(rewrite, "_PIECE", 7)
    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    reorder(source, tmp_path / "by_hand", "gpt_oss")
    assert content(tmp_path / "new") == content(tmp_path / "by_hand")


def test_what_may_hold_experts_in_the_old_order_is_left_out(tmp_path):
    source = make(tmp_path / "model", "mixtral")
    (source / "consolidated.safetensors").write_bytes(b"x")
    (source / "code").mkdir()
    (source / "code" / "run.py").write_text("1")
    (source / "original").mkdir()
    (source / "original" / "model.bin").write_bytes(b"x")
    (source / ".cache").mkdir()
    (source / ".cache" / "x").write_bytes(b"x")
    _, notes = reorder(source, tmp_path / "new", "mixtral")
    assert notes == (
        "left out, since they may hold experts in the old order: consolidated.safetensors, "
        "original/model.bin",
    )
    assert (tmp_path / "new" / "code" / "run.py").read_text() == "1"
    assert {"original", ".cache"}.isdisjoint(p.name for p in (tmp_path / "new").iterdir())


def test_progress_ends_with_all(tmp_path):
    source, told = make(tmp_path / "model", "mixtral"), []
    order = order_of("mixtral", random_order("mixtral", 0))
    reorder_checkpoint(
        open_checkpoint(source), order, tmp_path / "new", tell=lambda *how: told.append(how)
    )
    assert told
    assert all(done <= total for done, total in told)


# ---- what cannot be done: one sentence, and nothing is left --------------------------------------


def refused(folder, error, call, match):
    before = sorted(p.name for p in folder.iterdir())
    with pytest.raises(error, match=match):
        call()
    assert sorted(p.name for p in folder.iterdir()) == before


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    source = make(tmp_path / "model", "mixtral")
    (tmp_path / "new").mkdir()
    refused(tmp_path, ValueError, lambda: reorder(source, tmp_path / "new", "mixtral"), "already")
    inside = source / "new"
    refused(tmp_path, ValueError, lambda: reorder(source, inside, "mixtral"), "inside the check")
    lost = tmp_path / "no" / "new"
    refused(tmp_path, ValueError, lambda: reorder(source, lost, "mixtral"), "does not exist")


def test_no_space_left_is_told_before_and_during(tmp_path, monkeypatch):
    source = make(tmp_path / "model", "mixtral")
    real = os.write

    def full(number, piece):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    out = tmp_path / "new"
    refused(tmp_path, OSError, lambda: reorder(source, out, "mixtral"), "No space left.*new")
    monkeypatch.setattr(os, "write", real)
    little = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: little)
    refused(tmp_path, ValueError, lambda: reorder(source, out, "mixtral"), "are free there")


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    source = make(tmp_path / "model", "mixtral")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(rewrite, "_copy", interrupt)
    out = tmp_path / "new"
    refused(tmp_path, KeyboardInterrupt, lambda: reorder(source, out, "mixtral"), None)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_what_a_killed_run_left_goes_with_the_next(tmp_path):
    source = make(tmp_path / "model", "mixtral")
    slow = (
        "import sys, time; from pathlib import Path; import numpy as np\n"
        "from evenload.checkpoint import *; from evenload.checkpoint import rewrite\n"
        "from evenload.layers import ModelLayers\n"
        "rewrite._copy = lambda *_: (print('here', flush=True), time.sleep(60))\n"
        "order = ExpertOrder(np.tile(np.arange(8)[::-1], (3, 1)), ModelLayers(range(3)))\n"
        "reorder_checkpoint(open_checkpoint(sys.argv[1]), order, Path(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", slow, str(source), str(tmp_path / "new")]
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"here\n"
    left = [p for p in tmp_path.iterdir() if p.name.startswith(".new.")]
    assert len(left) == 1
    reorder(source, tmp_path / "other", "mixtral")  # one that still runs is left alone
    reorder(source, tmp_path / "new", "mixtral")
    assert left[0].exists()
    shutil.rmtree(tmp_path / "new")
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    for _ in range(100):
        if left[0].exists():
            reorder(source, tmp_path / "new", "mixtral")
            shutil.rmtree(tmp_path / "new")
            time.sleep(0.01)
    assert not left[0].exists()


def test_a_source_that_changes_meanwhile(tmp_path, monkeypatch):
    source = make(tmp_path / "model", "mixtral")
    checkpoint = open_checkpoint(source)
    other = {**tensors_of("mixtral", seed=5)}
    shutil.rmtree(source)
    save(source, "mixtral", other)
    order, out = order_of("mixtral", random_order("mixtral", 0)), tmp_path / "new"
    kept = checkpoint.digest
    assert kept == open_checkpoint(source).digest
    monkeypatch.setattr(type(checkpoint), "digest", "sha256:of another")
    refused(
        tmp_path, ValueError, lambda: reorder_checkpoint(checkpoint, order, out), "it changed while"
    )


def test_a_source_that_becomes_shorter(tmp_path):
    source = make(tmp_path / "model", "mixtral")
    checkpoint = open_checkpoint(source)
    shard = checkpoint.shards[1].path
    shard.write_bytes(shard.read_bytes()[:-100])
    order, out = order_of("mixtral", random_order("mixtral", 0)), tmp_path / "new"
    call = lambda: reorder_checkpoint(checkpoint, order, out)  # noqa: E731
    refused(tmp_path, ValueError, call, "model-00002.*: it became shorter while it was read")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to(tmp_path):
    source = make(tmp_path / "model", "mixtral")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    refused(closed, ValueError, lambda: reorder(source, closed / "new", "mixtral"), "may not be")


def test_a_read_only_source_does(tmp_path):
    source = make(tmp_path / "model", "mixtral")
    for path in source.iterdir():
        path.chmod(0o400)
    source.chmod(0o500)
    reorder(source, tmp_path / "new", "mixtral")
    assert (tmp_path / "new" / "config.json").stat().st_mode & 0o777 == 0o400
    source.chmod(0o700)


def test_an_order_that_changes_nothing_or_is_of_another_model(tmp_path):
    source = make(tmp_path / "model", "mixtral")
    out, still = tmp_path / "new", np.tile(np.arange(8), (3, 1))
    for layers, experts, match in (
        ([0, 1, 2], still, "have this order already"),
        ([0, 1], still[:2, ::-1], "the order is of 8 experts in model layers 0, 1"),
        ([0, 1, 2], still[:, :4][:, ::-1], "the order is of 4 experts"),
    ):
        order = ExpertOrder(experts, ModelLayers(layers))
        call = lambda order=order: reorder_checkpoint(open_checkpoint(source), order, out)  # noqa: E731
        refused(tmp_path, ValueError, call, match)
    refused(
        tmp_path, ValueError, lambda: undo_order(open_checkpoint(source), out), "was not reordered"
    )


def test_routers_that_were_changed_since_are_told(tmp_path):
    source = make(tmp_path / "model", "mixtral")
    checkpoint = open_checkpoint(source)
    experts = random_order("mixtral", 0)
    order = ExpertOrder(experts, ModelLayers([0, 1, 2]), source_digest=checkpoint.digest)
    reorder_checkpoint(checkpoint, order, tmp_path / "new")
    assert undo_order(open_checkpoint(tmp_path / "new"), tmp_path / "back") == ()
    changed = save(tmp_path / "changed", "mixtral", tensors_of("mixtral", seed=9))
    shutil.copy(tmp_path / "new" / ORDER_FILE, changed)
    (note,) = undo_order(open_checkpoint(changed), tmp_path / "undone")
    assert note.startswith(f"{ORDER_FILE} was written for other weights of the routers")
