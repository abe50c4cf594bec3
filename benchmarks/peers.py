"""The published planners, run as published: each file is loaded by path, without its engine."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.wheels import PeerMissingError, Release, ensure

ALGORITHMS = "sglang/srt/eplb/eplb_algorithms"
# DeepSeek EPLB is not on PyPI itself. SGLang ships it: statement for statement in the first of
# these releases; in the second the same steps run on Python lists instead of tensor elements.
DEEPSEEK = Release("sglang", "0.5.10", ALGORITHMS, ("deepseek.py",))
SGLANG = Release("sglang", "0.5.23", ALGORITHMS, ("deepseek.py", "deepseek_vec.py"))
VLLM = Release("vllm", "0.33.0", "vllm/distributed/eplb/policy", ("abstract.py", "default.py"))

Plan = Callable[[NDArray[Any], int, int, int, int], NDArray[np.int64]]


@dataclass(frozen=True)
class Planner:
    """A planner under one signature.

    Attributes
    ----------
    name : str
        Name in the tables.
    plan : callable
        ``plan(load [L, E], num_slots, num_groups, num_nodes, num_gpus)`` gives
        ``physical_to_logical [L, S]``.
    """

    name: str
    plan: Plan


def published() -> tuple[list[Planner], list[str]]:
    """Load every published planner that can be had here.

    Returns
    -------
    planners : list of Planner
    missing : list of str
        One sentence for each planner that cannot run, with the reason.
    """
    planners, missing = [], []
    for name, (build, _) in PUBLISHED.items():
        try:
            planners.append(Planner(name, build()))
        except PeerMissingError as error:
            missing.append(f"{name}: {error}.")
    return planners, missing


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


def require_torch() -> ModuleType:
    """Return torch, or raise `PeerMissingError`."""
    if importlib.util.find_spec("torch") is None:
        raise PeerMissingError("it needs torch, which is not installed")
    return import_module("torch")


def _load(release: Release, name: str) -> ModuleType:
    """Import one file as a submodule of a bare package, so that its relative imports work."""
    package = f"_peer_{release.package}_{release.version}".replace(".", "_")
    if package not in sys.modules:
        spec = ModuleSpec(package, None, is_package=True)
        spec.submodule_search_locations = [str(ensure(release))]
        sys.modules[package] = importlib.util.module_from_spec(spec)
    try:
        return import_module(f"{package}.{name}")
    except Exception as error:
        raise PeerMissingError(f"{name}.py does not import on its own ({error})") from error
