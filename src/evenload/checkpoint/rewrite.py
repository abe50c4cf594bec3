"""Writing a checkpoint whose experts have other numbers: ranges of bytes, copied in order.

Where each expert is tensors of its own only names change, and all bytes stay where they are. A
router's rows and fused experts are copied row by row. No tensor is ever held.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from evenload.arrays import Int
from evenload.checkpoint.folder import Checkpoint, open_checkpoint, weight_map
from evenload.checkpoint.order import ORDER_FILE, ExpertOrder, read_order
from evenload.checkpoint.tensors import ENDING, Shard, header_bytes
from evenload.io.base import FileFormatError, checking
from evenload.io.files import check_place, new_folder, some

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Tell: TypeAlias = Callable[[int, int], object]

_PIECE = 2**23  # bytes held where the system does not copy by itself
_CALL = 2**27  # bytes that the system copies in one call, so that progress is seen
_SMALL = 2**16  # bytes that are copied by hand as fast
# Of a file system, or two, between which the system does not copy by itself.
_BY_HAND = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}
_FICLONE = 0x40049409  # of Linux: a file that shares its bytes with another until one is changed
_WEIGHTS = (ENDING, ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")
_MIB = 2**20


def reorder_checkpoint(
    checkpoint: Checkpoint, order: ExpertOrder, out: Path, *, tell: Tell | None = None
) -> tuple[str, ...]:
    """Write a checkpoint with its experts in another order, and `ORDER_FILE` beside them.

    `order` is in the numbers of the checkpoint. Where that was reordered before, the file tells of
    both orders together. The folder appears when it is whole; what a killed run left is removed.

    Parameters
    ----------
    checkpoint : Checkpoint
    order : ExpertOrder
        Of the layers of the checkpoint.
    out : path-like
        The new folder, which must not be there.
    tell : callable, optional
        Called with the bytes that are written and those of all.

    Returns
    -------
    tuple of str
        What was left out, one sentence each.

    Raises
    ------
    ValueError
        If `out` is there or cannot be, the order is of another model, or there is no space.
    OSError
        If a file cannot be read or written.
    """
    notes, whole = list[str](), order
    if not order.changes:
        raise ValueError("the experts have this order already; use the checkpoint as it is")
    if (checkpoint.path / ORDER_FILE).exists():
        before = read_order(checkpoint.path)
        notes += _whose(checkpoint, before)
        whole = before.then(order)
        notes.append("the checkpoint was reordered before; the file tells of both orders together")
    return (*notes, *_write(checkpoint, order, Path(out), whole, tell))


def undo_order(checkpoint: Checkpoint, out: Path, *, tell: Tell | None = None) -> tuple[str, ...]:
    """Write a reordered checkpoint as it was: each tensor's name, type, shape and bytes.

    Parameters and errors are those of `reorder_checkpoint`; a checkpoint without `ORDER_FILE` is a
    `ValueError`.
    """
    if not (checkpoint.path / ORDER_FILE).exists():
        raise ValueError(
            f"{checkpoint.path}: it has no {ORDER_FILE}, and was not reordered, or lost it; put "
            "that file back, or leave --undo out"
        )
    order = read_order(checkpoint.path)
    notes = _whose(checkpoint, order)
    return (*notes, *_write(checkpoint, order.inverse, Path(out), None, tell))


def _whose(checkpoint: Checkpoint, order: ExpertOrder) -> list[str]:
    """Note where an order was made for other routers: another model, or one trained further."""
    _check_same(checkpoint, order)
    if order.source_digest in (None, checkpoint.digest_under(order.inverse)):
        return []
    return [
        f"{ORDER_FILE} was written for other weights of the routers: those of another model, or "
        "they were changed since"
    ]


def _check_same(checkpoint: Checkpoint, order: ExpertOrder) -> None:
    E = checkpoint.model.num_experts
    if order.layers.ids != checkpoint.layers or order.num_experts != E:
        raise ValueError(
            f"the order is of {order.num_experts} experts in model layers "
            f"{some(order.layers.ids, 5)}, and the checkpoint has {E} in "
            f"{some(checkpoint.layers, 5)}; use the order of this model"
        )


def _write(
    checkpoint: Checkpoint, order: ExpertOrder, out: Path, kept: ExpertOrder | None,
    tell: Tell | None,
) -> tuple[str, ...]:  # fmt: skip
    """Write the folder; `kept` is the order to tell of."""
    _check_same(checkpoint, order)
    _check_out(checkpoint, out)
    others, notes = _others(checkpoint)
    changes = Changes(checkpoint, order)
    total = sum(shard.size for shard in checkpoint.shards)
    _check_space(out, sum(s.size for s in checkpoint.shards if changes.touch(s)))
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        if tell is not None:
            tell(done // _MIB, total // _MIB)

    with new_folder(out) as folder:
        for path in others:
            target = folder / path.relative_to(checkpoint.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        for shard in checkpoint.shards:
            target = folder / shard.path.name
            if changes.touch(shard):
                _write_shard(shard, changes, target, count)
            else:
                _share(shard.path, target)
                count(shard.size)
        if checkpoint.index is not None:
            text = _renamed_index(checkpoint.index, changes.names)
            (folder / checkpoint.index.name).write_text(text, "utf-8")
        if kept is not None:
            (folder / ORDER_FILE).write_text(kept.to_json(), "utf-8")
        written = open_checkpoint(folder)
        if written.digest_under(order.inverse) != checkpoint.digest:
            raise FileFormatError(
                f"{checkpoint.path}: it changed while it was read; wait until it is whole"
            )
    return notes


class Changes:
    """What an order changes in a checkpoint's files."""

    def __init__(self, checkpoint: Checkpoint, order: ExpertOrder) -> None:
        rows = dict(zip(order.layers.ids, order.experts, strict=True))
        places = dict(zip(order.layers.ids, order.inverse.experts, strict=True))
        self.rows: dict[str, Int] = {}  # of tensors with a row for each expert: which comes where
        self.names: dict[str, str] = {}
        for name, role in checkpoint.roles.items():
            if role.rows:
                self.rows[name] = rows[role.layer]
            else:
                self.names[name] = role.renamed(int(places[role.layer][role.expert]))

    def touch(self, shard: Shard) -> bool:
        """Whether anything in a file changes."""
        return any(
            self.names.get(name, name) != name or (name in self.rows and _moves(self.rows[name]))
            for name in shard.tensors
        )

    def ranges(self, shard: Shard) -> Iterator[tuple[int, int]]:
        """Yield where in the file the bytes of the new one are, in order: first byte and number."""
        first, end = shard.start, shard.start
        for name, tensor in sorted(shard.tensors.items(), key=lambda item: item[1][2:]):
            start, size = shard.start + tensor.begin, tensor.end - tensor.begin
            pieces: Sequence[tuple[int, int]] = [(start, size)]
            if name in self.rows and _moves(self.rows[name]):
                row = size // tensor.shape[0]
                pieces = [(start + int(expert) * row, row) for expert in self.rows[name]]
            for begin, length in pieces:
                if begin != end:
                    yield first, end - first
                    first = end = begin
                end += length
        yield first, end - first


def _moves(row: Int) -> bool:
    return any(expert != place for place, expert in enumerate(row.tolist()))


def _write_shard(
    shard: Shard, changes: Changes, target: Path, count: Callable[[int], None]
) -> None:
    """Write one file of tensors."""
    with shard.path.open("rb", buffering=0) as source, target.open("xb", buffering=0) as sink:
        head = memoryview(header_bytes(shard, changes.names))
        while head:
            head = head[sink.write(head) :]
        with checking(str(shard.path)):
            for begin, size in changes.ranges(shard):
                _copy(source.fileno(), sink.fileno(), begin, size, count)
        os.fsync(sink.fileno())
    shutil.copymode(shard.path, target)


def _copy(source: int, sink: int, begin: int, size: int, count: Callable[[int], None]) -> None:
    """Append bytes of one file to another, without holding them where the system can do that."""
    by_itself = hasattr(os, "copy_file_range") and size > _SMALL
    while size > 0:
        done = 0
        if by_itself:
            try:
                done = os.copy_file_range(source, sink, min(size, _CALL), begin)
            except OSError as error:
                if error.errno not in _BY_HAND:
                    raise
                by_itself = False
                continue
        else:
            os.lseek(source, begin, os.SEEK_SET)
            piece = memoryview(os.read(source, min(size, _PIECE)))
            done = len(piece)
            while piece:
                piece = piece[os.write(sink, piece) :]
        if done == 0:
            raise ValueError("it became shorter while it was read; wait until it is whole")
        begin, size = begin + done, size - done
        count(done)


def _share(source: Path, target: Path) -> None:
    """Give a file a second name, or a copy that shares its bytes, or a copy."""
    source = source.resolve()  # a folder of Hugging Face's cache has links
    if fcntl is not None:
        with suppress(OSError), source.open("rb") as held, target.open("xb") as sink:
            fcntl.ioctl(sink.fileno(), _FICLONE, held.fileno())
            shutil.copymode(source, target)
            return
        target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy(source, target)


def _others(checkpoint: Checkpoint) -> tuple[list[Path], tuple[str, ...]]:
    """Return the files beside the tensors that are copied, and a note of those that are not."""
    own = {shard.path for shard in checkpoint.shards}
    own |= {checkpoint.path / ORDER_FILE, *([checkpoint.index] if checkpoint.index else [])}
    copied, left = list[Path](), list[str]()
    for path in sorted(checkpoint.path.rglob("*")):
        inside = path.relative_to(checkpoint.path)
        if path in own or not path.is_file() or any(p.startswith(".") for p in inside.parts[:-1]):
            continue
        if path.suffix.lower() in _WEIGHTS or path.name.endswith(f"{ENDING}.index.json"):
            left.append(str(inside))
        else:
            copied.append(path)
    if not left:
        return copied, ()
    return copied, (f"left out, since they may hold experts in the old order: {some(left, 5)}",)


def _check_out(checkpoint: Checkpoint, out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise ValueError(f"{out}: this is there already; give a folder that is not")
    check_place(out)
    if checkpoint.path.resolve() in (out.resolve(), *out.resolve().parents):
        raise ValueError(f"{out}: this is inside the checkpoint; give a folder beside it")


def _check_space(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out.resolve().parent).free
    if needed > free:
        raise ValueError(
            f"{out}: the reordered files take {needed / _MIB:,.0f} MiB, and {free / _MIB:,.0f} MiB "
            "are free there; make room, or give a folder on another disk"
        )


def _renamed_index(index: Path, names: Mapping[str, str]) -> str:
    """Return the text of an index under new names, laid out as it was."""
    text = index.read_text("utf-8")
    held, old = json.loads(text), weight_map(index)
    new = {names.get(name, name): file for name, file in old.items()}
    if list(old) == sorted(old):
        new = dict(sorted(new.items()))
    end = "\n" * text.endswith("\n")
    layouts: list[dict[str, Any]] = [{"indent": n} for n in (2, 4, None)]
    same = (how for how in layouts if json.dumps(held, **how) + end == text)
    return json.dumps({**held, "weight_map": new}, **next(same, layouts[0])) + end
