"""All planners under one signature: the published ones, run as published, and evenload's."""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload import Cluster, solve

CACHE = Path(__file__).parent / ".cache"  # of files from wheels; nothing of them is committed

Plan = Callable[[NDArray[Any], int, int, int, int], NDArray[np.int64]]


class PeerMissingError(Exception):
    """A published planner cannot be run here; the message is one sentence that says why."""


@dataclass(frozen=True)
class Planner:
    """``plan(load [L, E], num_slots, num_groups, num_nodes, num_gpus)`` gives a slot map [L, S]."""

    name: str
    plan: Plan


@dataclass(frozen=True)
class Release:
    """A release on PyPI (pinned: never the newest) and the files of its wheel that are run."""

    package: str
    version: str
    folder: str
    files: tuple[str, ...]


ALGORITHMS = "sglang/srt/eplb/eplb_algorithms"
# DeepSeek EPLB is not on PyPI itself. SGLang ships it: statement for statement in the first of
# these releases; in the second the same steps run on Python lists instead of tensor elements.
DEEPSEEK = Release("sglang", "0.5.10", ALGORITHMS, ("deepseek.py",))
SGLANG = Release("sglang", "0.5.23", ALGORITHMS, ("deepseek.py", "deepseek_vec.py"))
VLLM = Release("vllm", "0.33.0", "vllm/distributed/eplb/policy", ("abstract.py", "default.py"))


def deepseek(release: Release = DEEPSEEK) -> Plan:
    """DeepSeek EPLB, from a copy that SGLang ships."""
    torch, module = require_torch(), _load(release, "deepseek")

    def plan(load, num_slots, num_groups, num_nodes, num_gpus):  # type: ignore[no-untyped-def]
        hierarchical = num_groups % num_nodes == 0
        arguments = (num_slots, num_groups, num_nodes, num_gpus, hierarchical)
        return module.rebalance_experts(torch.from_numpy(load), *arguments)[0].numpy()

    return plan


def vllm() -> Plan:
    """Default policy of vLLM (NumPy), without an old placement to keep slots of."""
    torch, module = require_torch(), _load(VLLM, "default")

    def plan(load, num_slots, num_groups, num_nodes, num_gpus):  # type: ignore[no-untyped-def]
        arguments = (num_slots, num_groups, num_nodes, num_gpus)
        policy = module.DefaultEplbPolicy
        return policy.rebalance_experts(torch.from_numpy(load), *arguments).numpy()

    return plan


def sglang_vec() -> Plan:
    """SGLang's ``deepseek_vec``: batched replication, then dealing out in a snake."""
    torch, module = require_torch(), _load(SGLANG, "deepseek_vec")

    def plan(load, num_slots, num_groups, num_nodes, num_gpus):  # type: ignore[no-untyped-def]
        steps = torch.from_numpy(load).float().unsqueeze(0)
        hierarchical = num_nodes > 1 and num_groups % num_nodes == 0
        arguments = (num_slots, num_slots // num_gpus, num_groups, num_nodes, hierarchical)
        return module.rebalance_experts(steps, *arguments)[0].long().numpy()

    return plan


PUBLISHED: dict[str, tuple[Callable[[], Plan], str]] = {
    "DeepSeek EPLB": (deepseek, "DeepSeek's own code, from the copy in SGLang 0.5.10"),
    "SGLang 0.5.23": (
        partial(deepseek, SGLANG),
        "its `deepseek` algorithm: the same steps on Python lists, summed in float64",
    ),
    "SGLang 0.5.23 vec": (sglang_vec, "its `deepseek_vec` algorithm"),
    "vLLM 0.33.0": (vllm, "its default policy, without an old placement"),
}


def published(*names: str) -> tuple[list[Planner], list[str]]:
    """Load the published planners, all or those named; a sentence for each that cannot be had."""
    planners, missing = [], []
    for name in names or PUBLISHED:
        try:
            planners.append(Planner(name, PUBLISHED[name][0]()))
        except PeerMissingError as error:
            missing.append(f"{name}: {error}.")
    return planners, missing


SOLVERS: dict[str, dict[str, Any]] = {
    **{name: {"solver": name} for name in ("greedy", "iterated-greedy", "local-search")},
    "auto": {},
    **{f"joint {effort}": {"solver": "joint", "effort": effort}
       for effort in ("fast", "standard", "thorough")},
}  # fmt: skip


def ours(*names: str, label: str = "") -> list[Planner]:
    """Return planners of `SOLVERS`: the whole public call, checks and evaluation included."""

    def plan(options, load, num_slots, num_groups, num_nodes, num_gpus):  # type: ignore[no-untyped-def]
        cluster = Cluster(num_gpus, num_nodes, num_slots=num_slots)
        return solve(load, cluster, num_groups=num_groups, **options).placement.physical_to_logical

    return [Planner(label + name, partial(plan, SOLVERS[name])) for name in names]


def require_torch() -> ModuleType:
    """Return torch, or raise `PeerMissingError`."""
    if importlib.util.find_spec("torch") is None:
        raise PeerMissingError("it needs torch, which is not installed")
    return import_module("torch")


def _load(release: Release, name: str) -> ModuleType:
    """Import one file as a submodule of a bare package: relative imports work, no engine loads."""
    package = f"_peer_{release.package}_{release.version}".replace(".", "_")
    if package not in sys.modules:
        spec = ModuleSpec(package, None, is_package=True)
        spec.submodule_search_locations = [str(_ensure(release))]
        sys.modules[package] = importlib.util.module_from_spec(spec)
    try:
        return import_module(f"{package}.{name}")
    except Exception as error:
        raise PeerMissingError(f"{name}.py does not import on its own ({error})") from error


def _ensure(release: Release) -> Path:
    """Return a folder with the files of a release, from the cache or else from its wheel."""
    path = CACHE / f"{release.package}-{release.version}"
    if all((path / name).is_file() for name in release.files):
        return path
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        folder = Path(scratch, "files")
        folder.mkdir()
        with zipfile.ZipFile(_download(release, Path(scratch))) as archive:
            for name in release.files:
                inside = f"{release.folder}/{name}"
                if inside not in archive.namelist():
                    raise PeerMissingError(f"{release.package} {release.version} has no {inside}")
                (folder / name).write_bytes(archive.read(inside))
        shutil.rmtree(path, ignore_errors=True)
        folder.rename(path)
    return path


def _download(release: Release, folder: Path) -> Path:
    # The platform is named so that any system gets the same wheel: its Python files run anywhere.
    platform = ["--platform=manylinux_2_34_x86_64", "--platform=manylinux_2_28_x86_64"]
    python = ["--python-version=3.11", "--implementation=cp", "--abi=cp311", "--abi=abi3"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", *platform, *python, f"--dest={folder}"]
    command += ["--disable-pip-version-check", f"{release.package}=={release.version}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or not wheels:
        reason = (result.stderr.strip().splitlines() or ["no output"])[-1]
        raise PeerMissingError(
            f"{release.package} {release.version} could not be downloaded with pip ({reason})"
        )
    return wheels[0]
