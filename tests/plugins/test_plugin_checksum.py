"""Checksums of experts' weights beside a twin in plain NumPy, and what two tables of them say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evenload import checksum
from evenload.checksum import checksums
from evenload.plugins.checksum import differences

DTYPES = (torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.float32, torch.float16)


def twin(tensors):
    """One row after the other: its bytes, padded to words, times the cubes of odd numbers."""
    found = []
    for row in range(len(tensors[0])):
        words = []
        for tensor in tensors:
            raw = tensor[row].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            words.append(np.frombuffer(raw + b"\0" * (-len(raw) % 4), "<i4"))
        total = 0
        for place, word in enumerate(np.concatenate(words).tolist()):
            total += word * (2 * place + 1) ** 3
        found.append((total + 2**63) % 2**64 - 2**63)
    return found


def weights(rows=3, seed=0, sizes=(7, 12, 1, 33)):
    rng = np.random.default_rng(seed)
    raw = [rng.integers(0, 256, (rows, size * 4), np.uint8) for size in sizes]
    return [
        torch.from_numpy(r[:, : size * dtype.itemsize].copy()).view(dtype)
        for r, size, dtype in zip(raw, sizes, DTYPES, strict=False)
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 3, 4, 5, 8, 127])
def test_a_tensor_of_each_type_and_size(dtype, size):
    raw = np.random.default_rng(size).integers(0, 256, (4, size * dtype.itemsize), np.uint8)
    tensor = torch.from_numpy(raw).view(dtype)
    found = checksums([tensor])
    assert found.dtype == torch.int64
    assert found.tolist() == twin([tensor])


def test_all_tensors_of_an_expert_count(monkeypatch):
    tensors = [*weights(), torch.empty(3, 0), torch.arange(3.0), torch.arange(30.0).view(3, 2, 5)]
    whole = checksums(tensors)
    assert whole.tolist() == twin([t for t in tensors if t.numel()])
    monkeypatch.setattr(checksum, "CHUNK", 3)
    assert checksums(tensors).tolist() == whole.tolist()  # in parts


def test_no_layout_changes_it():
    tensor = torch.arange(96, dtype=torch.int16).view(4, 24)
    wide = torch.zeros(4, 25, dtype=torch.int16)
    wide[:, 1:] = tensor
    odd = torch.zeros(193, dtype=torch.uint8)
    odd[1:] = tensor.view(torch.uint8).flatten()
    columns = tensor.view(4, 4, 6).transpose(1, 2).contiguous().transpose(1, 2)
    for same in (wide[:, 1:], odd[1:].view(4, 48), columns, torch.nn.Parameter(tensor.float())):
        wanted = [tensor.float()] if same.requires_grad else [tensor]
        assert checksums([same]).tolist() == twin(wanted)


def test_every_flipped_bit_shows():
    tensors = weights(rows=1, sizes=(3, 5, 3))
    right, seen = checksums(tensors).item(), set()
    for tensor in tensors:
        flat = tensor.view(torch.uint8)[0]
        for byte in range(len(flat)):
            for bit in range(8):
                flat[byte] ^= 1 << bit
                seen.add(checksums(tensors).item())
                flat[byte] ^= 1 << bit
    assert checksums(tensors).item() == right
    assert right not in seen
    assert len(seen) == 8 * sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("apart", [1, 2, 1 << 8, 1 << 15, 1 << 20])
def test_two_words_that_change_places_show(apart):
    words = torch.zeros(1, apart + 2, dtype=torch.int32)
    words[0, 0] = -(2**31)  # they differ in the highest bit only
    other = words.clone()
    other[0, 0], other[0, apart] = words[0, apart], words[0, 0]
    assert checksums([words]).item() != checksums([other]).item()


def test_rows_and_tensors_that_change_places_show():
    first, second = torch.randn(2, 6, 4), torch.randn(2, 6, 4)
    right = checksums([first, second])
    assert (checksums([second, first]) != right).all()
    assert (checksums([first[:, [1, 0, 2, 3, 4, 5]], second]) != right).all()
    assert (checksums([first[:, :, [0, 2, 1, 3]], second]) != right).all()
    assert (checksums([first.transpose(1, 2).contiguous(), second]) != right).all()
    mirrored = first.clone()  # what one exchange adds to a sum of first powers another takes away
    mirrored[:, 0], mirrored[:, 1], mirrored[:, 2], mirrored[:, 3] = 1, 2, 2, 1
    back = mirrored[:, [1, 0, 3, 2, 4, 5]]
    assert (checksums([mirrored, second]) != checksums([back, second])).all()
    assert checksums([first[[1, 0]], second[[1, 0]]]).tolist() == right.tolist()[::-1]


# ---- what they say after a move ------------------------------------------------------------------

OLD, NEW = [0, 1, 2, 0], [2, 1, 0, 2]
RIGHT = [12, 11, 10, 12]


def said(old=OLD, new=NEW, before=(10, 11, 12, 10), after=RIGHT):
    maps, sums = np.array([[old, new]]), np.array([[before, after]])
    return differences([7], maps, sums, 2)


def test_a_move_that_is_right_says_nothing():
    assert said() == ([], [])


def test_a_slot_that_holds_another_expert_is_named():
    mixed, wrong = said(after=[12, 11, 11, 5])
    assert mixed == []
    assert wrong == [
        (1, "layer 7: expert 0 was in slot 0 (rank 0), slot 3 (rank 1), and now slot 2 (rank 1) "
            "holds expert 1"),
        (1, "layer 7: expert 2 was in slot 2 (rank 1), and now slot 3 (rank 1) holds no expert's "
            "weights"),
    ]  # fmt: skip


def test_replicas_that_differed_before_are_no_fault_of_the_move():
    mixed, wrong = said(before=(10, 11, 12, 13), after=[12, 11, 13, 12])
    assert mixed == ["layer 7: expert 0 in slot 0 (rank 0), slot 3 (rank 1)"]
    assert wrong == []


def test_of_what_was_nowhere_nothing_is_said():
    old, new = [-1, 1, -1, 0], [2, 1, 0, -1]
    assert said(old, new, before=(1, 11, 2, 10), after=[3, 11, 10, 4]) == ([], [])


@pytest.mark.parametrize("seed", range(3))
def test_one_row_on_its_way_shows_every_flipped_bit(seed):
    draw = np.random.default_rng(seed)
    parts = [torch.from_numpy(draw.integers(0, 256, n).astype(np.uint8)) for n in (37, 64)]
    right = checksum.of_row(parts)
    assert right.shape == (8,)
    assert torch.equal(checksum.of_row([part.clone() for part in parts]), right)
    for _ in range(50):
        part, bit = draw.choice([0, 1]), 1 << draw.integers(8)
        changed = [one.clone() for one in parts]
        changed[part][draw.integers(len(parts[part]))] ^= bit
        assert not torch.equal(checksum.of_row(changed), right)
