"""A checkpoint in a folder: its model, its tensors and what each is to the experts."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from evenload.checkpoint.families import Model, Role, model_of
from evenload.checkpoint.order import ExpertOrder
from evenload.checkpoint.tensors import ENDING, Shard, Tensor, read_shard
from evenload.checks import printable
from evenload.io.base import FileFormatError, checking
from evenload.io.files import most_bytes, some
from evenload.io.json import MOST_TEXT, parse_json

CONFIG = "config.json"
_INDEX = f"{ENDING}.index.json"
_NAMED = re.compile(r"experts\.(\d+)")  # one expert, in what a quantisation says
_MOST_INDEX = 2**28  # bytes: DeepSeek-V3's index has 9 MB


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint that is whole and understood; see `open_checkpoint`."""

    path: Path
    model: Model
    shards: tuple[Shard, ...]
    roles: dict[str, Role]  #: of the tensors that routed experts have
    index: Path | None  #: the file that says which shard has which tensor
    layers: tuple[int, ...]  #: numbers of the layers with experts, those that draft behind

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {name: tensor for shard in self.shards for name, tensor in shard.tensors.items()}

    @property
    def digest(self) -> str:
        """``sha256:`` and 64 hex digits of all names, types and shapes, and of the routers' bytes.

        Tells which expert has which number, without reading the weights.
        """
        return self.digest_under(None)

    def digest_under(self, order: ExpertOrder | None) -> str:
        """Return what `digest` would be after an order of the checkpoint's layers."""
        total = hashlib.sha256()
        for name, (dtype, shape, *_) in sorted(self.tensors.items()):
            total.update(f"{name} {dtype} {list(shape)}\n".encode())
        family = self.model.family
        rows = {} if order is None else dict(zip(order.layers.ids, order.experts, strict=True))
        where = {name: shard for shard in self.shards for name in shard.tensors}
        for name in sorted(name for name in self.roles if name.endswith(family.router)):
            table = where[name].read(name).reshape(self.model.num_experts, -1)
            total.update(
                (table if order is None else table[rows[self.roles[name].layer]]).tobytes()
            )
        return f"sha256:{total.hexdigest()}"


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read the headers of a checkpoint, and check that it can be reordered.

    Parameters
    ----------
    path : path-like
        A folder with config.json and .safetensors files, and their index where there are several.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If a shard is missing or cut off, the model is of no family that is known, or one of its
        tensors may belong to experts and is not understood.
    """
    folder = Path(path)
    if not folder.is_dir():
        number = errno.ENOTDIR if folder.exists() else errno.ENOENT
        raise FileNotFoundError(number, os.strerror(number), str(folder))
    config = folder / CONFIG
    if not config.is_file():
        raise FileFormatError(
            f"{folder}: it has no {CONFIG}, which tells which layers have experts; use the folder "
            "of a whole checkpoint"
        )
    with checking(str(config)):
        model = model_of(parse_json(config, MOST_TEXT))
    index, names = _files(folder)
    shards = tuple(read_shard(folder / name) for name in names)
    with checking(str(folder)):
        _check_index(index, shards)
        roles = {}
        for shard in shards:
            for name in shard.tensors:
                if (role := model.role(name)) is not None:
                    roles[name] = role
        there = {role.layer for role in roles.values()}
        layers = (*model.layers, *(i for i in model.drafts if i in there))
        checkpoint = Checkpoint(folder, model, shards, roles, index, layers)
        _check_experts(checkpoint)
        _check_named(checkpoint)
    return checkpoint


def _files(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the index, if there is one, and the names of the files with tensors."""
    found = sorted(p.name for p in folder.glob(f"*{ENDING}"))
    indices = sorted(folder.glob(f"*{_INDEX}"))
    if not indices and len(found) == 1:
        return None, found
    if not found:
        raise FileFormatError(
            f"{folder}: it has no {ENDING} file, and no others are reordered; save the model as "
            f"{ENDING} (transformers: save_pretrained)"
        )
    if len(indices) != 1:
        raise FileFormatError(
            f"{folder}: it has {len(found)} {ENDING} files and {len(indices)} files that end in "
            f"{_INDEX}, which say what is in which; leave one such file there"
        )
    names = sorted(set(weight_map(indices[0]).values()))
    lacking = [name for name in names if not (folder / name).is_file()]
    if lacking:
        raise FileFormatError(
            f"{folder}: {len(lacking)} of the {len(names)} files that {indices[0].name} names are "
            f"missing: {some(lacking, 3)}; fetch them"
        )
    return indices[0], names


def weight_map(index: Path) -> dict[str, str]:
    """Return which file of its folder has which tensor, as an index says."""
    with checking(str(index)):
        held: Any = parse_json(index, most_bytes(_MOST_INDEX))
        files = held.get("weight_map") if isinstance(held, dict) else None
        if not isinstance(files, dict) or not files:
            raise ValueError("it has no weight_map; use the index of a checkpoint")
        for name in files.values():
            if not (isinstance(name, str) and name.endswith(ENDING) and Path(name).name == name):
                raise ValueError(f"weight_map names {name!r}; use files of its folder")
    return files


def _check_index(index: Path | None, shards: tuple[Shard, ...]) -> None:
    """Refuse an index that tells of other tensors than the files have."""
    found = [(name, shard.path.name) for shard in shards for name in shard.tensors]
    if index is None:
        return
    told = set(weight_map(index).items())
    for name, file in sorted(told.symmetric_difference(found)):
        where = "has it not" if (name, file) in told else "has it, and the index does not say so"
        raise ValueError(
            f"{index.name} and {file} differ over {printable(name)}: the file {where}; fetch both "
            "again"
        )
    if len(found) != len(told):
        raise ValueError(f"a tensor is in two files; use those that {index.name} names")


def _check_experts(checkpoint: Checkpoint) -> None:
    """Refuse layers that lack something of an expert, or whose experts are not of one shape."""
    model, tensors = checkpoint.model, checkpoint.tensors
    there: dict[tuple[int, str], dict[int, str]] = {}
    for name, role in checkpoint.roles.items():
        if role.rows:
            shape = tensors[name].shape
            if not shape or shape[0] != model.num_experts:
                raise ValueError(
                    f"{printable(name)} has shape {list(shape)}, and {CONFIG} tells of "
                    f"{model.num_experts} experts; use the {CONFIG} of this checkpoint"
                )
        else:
            there.setdefault((role.layer, role.kind), {})[role.expert] = name
    for (layer, kind), names in there.items():
        if len(names) != model.num_experts:
            lacks = next(e for e in range(model.num_experts) if e not in names)
            raise ValueError(
                f"layer {layer} has {printable(kind)} of {len(names)} experts, and not of expert "
                f"{lacks}; use a checkpoint with all {model.num_experts}"
            )
        kinds = {tensors[name][:2] for name in names.values()}
        if len(kinds) > 1:
            raise ValueError(
                f"{printable(kind)} differs in type or shape between experts: "
                f"{some([f'{t} {list(s)}' for t, s in sorted(kinds)], 3)}; use a checkpoint whose "
                "experts are alike"
            )
    router = f"{model.family.block}.{model.family.router[0]}"
    held = {layer for layer, _ in there}
    held |= {r.layer for n, r in checkpoint.roles.items() if r.rows and ".experts." in n}
    for layer in checkpoint.layers:
        if f"model.layers.{layer}.{router}" not in checkpoint.roles or layer not in held:
            raise ValueError(
                f"layer {layer} has no {router} or no experts, and {CONFIG} tells that it has; use "
                f"the {CONFIG} of this checkpoint"
            )


def _check_named(checkpoint: Checkpoint) -> None:
    """Refuse settings of a quantisation that treat single experts in another way than the rest."""
    everyone = set(range(checkpoint.model.num_experts))
    for path in sorted(checkpoint.path.glob("*config*.json")):  # of the model, or of ModelOpt, GPTQ
        texts: dict[str, set[int]] = {}
        for text in re.findall(r'"((?:[^"\\]|\\.)*)"', path.read_text("utf-8", "replace")):
            if found := _NAMED.search(text):
                key = text[: found.start(1)] + "*" + text[found.end(1) :]
                texts.setdefault(key, set()).add(int(found[1]))
        for key, numbers in texts.items():
            if numbers != everyone:
                raise ValueError(
                    f"{path.name} names {printable(key[:100])} for {len(numbers)} of "
                    f"{len(everyone)} experts, and their numbers would change; use a checkpoint "
                    "whose experts are quantised alike"
                )
