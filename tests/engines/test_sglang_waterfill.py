"""Water-filling inside SGLang's LPLBSolver, whose own linear program HiGHS solves here."""

import numpy as np
import pytest
import torch
from sglang_world import configured

from evenload import Cluster, Placement, solve
from evenload.plugins import sglang_dispatch

E, S, G = 64, 80, 16


@pytest.fixture
def hooked(monkeypatch):
    """Register the hooks as SGLang's loader does, for one test."""
    from sglang.kernels.ops.lplb import torch_solver
    from sglang.srt.eplb import lplb_solver
    from sglang.srt.plugins.hook_registry import HookRegistry

    for owner, name in (
        (lplb_solver.LPLBSolver, "__init__"),
        (lplb_solver.LPLBSolver, "_solve"),
        (torch_solver, "warmup"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # put back afterwards
    monkeypatch.setattr(HookRegistry, "_hooks", type(HookRegistry._hooks)(list))
    monkeypatch.setattr(HookRegistry, "_patched", set())
    monkeypatch.delenv("EVENLOAD_OPTIONS", raising=False)

    def hook(dispatch="waterfill"):
        monkeypatch.setenv("EVENLOAD_SGLANG_DISPATCH", dispatch)
        sglang_dispatch.register()
        HookRegistry.apply_hooks()
        return lplb_solver.LPLBSolver

    return hook


def layer(seed=0):
    """A placement, its two maps as SGLang has them, and tokens [n, 6] of its experts."""
    rng = np.random.default_rng(seed)
    share = rng.lognormal(0, 1, E)
    row = solve(share, Cluster(G, num_slots=S)).placement.physical_to_logical[0]
    place = Placement(row, Cluster(G, num_slots=S), E)
    slots = torch.tensor(place.logical_to_physical[0])
    padded = torch.nn.functional.pad(slots, (0, 2), value=-1)
    tokens = torch.tensor(rng.choice(E, (1024, 6), p=share / share.sum()), dtype=torch.int32)
    return place, torch.tensor(row), padded, tokens


def least_peak(solver, counts):
    """Solve the program that the constructor built: least M with A [x; slack; M] = b."""
    optimize = pytest.importorskip("scipy.optimize")
    b = np.r_[counts[solver.log_replicated], -solver.B1.double() @ counts[solver.log_single]]
    A = solver.A_base.double().numpy()
    cost = np.zeros(A.shape[1])
    cost[-1] = 1.0
    return optimize.linprog(cost, A_eq=A, b_eq=b, method="highs").fun


def test_gives_quotas_near_the_optimum_of_sglangs_own_program(hooked):
    solver_class = hooked()
    ratios = []
    for seed in range(6):
        place, phy2log, log2phy, tokens = layer(seed)
        with configured():
            solver = solver_class(phy2log, log2phy, G)
        quotas = solver.solve(tokens)
        counts = torch.bincount(tokens.flatten(), minlength=E)
        assert quotas.dtype == torch.float32
        assert quotas.shape == log2phy.shape
        assert torch.equal(quotas.sum(1), counts.float())
        assert (quotas[log2phy < 0] == 0).all()
        split = np.where(counts[:, None] > 0, quotas / quotas.sum(1, keepdim=True).clamp(min=1),
                         (log2phy >= 0) / (log2phy >= 0).sum(1, keepdim=True))  # fmt: skip
        X = place.logical_to_physical.shape[2]
        peak = place.gpu_load(counts.numpy()[None], split[None, :, :X]).max()
        best = least_peak(solver, counts.double())
        assert peak >= best * (1 - 1e-6)
        ratios.append(best / peak)
        again = solver.solve(tokens.flip(0))
        assert torch.equal(again, quotas)
        idle = solver.solve(tokens[:0])
        assert (idle == 0).all()
    assert np.mean(ratios) > 0.988


def test_counts_of_all_ranks_are_what_is_split(hooked):
    class Group:
        def all_reduce(self, counts):
            return counts * 3

    _, phy2log, log2phy, tokens = layer()
    with configured():
        solver = hooked()(phy2log, log2phy, G, ep_group=Group())
    assert solver.solve(tokens).sum() == 3 * tokens.numel()


def test_a_narrowed_table_gets_the_part_of_what_all_replicas_get(hooked):
    _, phy2log, log2phy, tokens = layer()
    narrow = log2phy.clone()
    e = int((log2phy >= 0).sum(1).argmax())
    narrow[e] = -1
    narrow[e, 0] = log2phy[e, 1]
    with configured():
        whole, part = (hooked()(phy2log, table, G).solve(tokens) for table in (log2phy, narrow))
    assert part[e, 0] == whole[e, 1]
    assert (part[e, 1:] == 0).all()
    rest = torch.arange(E) != e
    assert torch.equal(part[rest], whole[rest])


def test_without_the_setting_sglangs_solver_is_as_it_was(hooked):
    _, phy2log, log2phy, _ = layer()
    with configured(), pytest.raises(RuntimeError, match="LPLB fused solver unavailable"):
        hooked("lp")(phy2log, log2phy, G)


def test_what_cannot_be_is_refused_at_the_start(hooked, monkeypatch):
    _, phy2log, log2phy, _ = layer()
    solver_class = hooked()
    with configured(elastic_ep_backend="mooncake"), pytest.raises(ValueError, match="--elastic-ep"):
        solver_class(phy2log, log2phy, G)
    monkeypatch.setenv("EVENLOAD_SGLANG_DISPATCH", "water")
    with configured(), pytest.raises(ValueError, match="use one of: lp, waterfill"):
        solver_class(phy2log, log2phy, G)


def test_a_solver_of_another_release_is_refused_at_the_start(hooked, monkeypatch):
    from sglang.srt.eplb.lplb_solver import LPLBSolver

    monkeypatch.setattr(LPLBSolver, "_solve", lambda self, counts, more: None)
    _, phy2log, log2phy, _ = layer()
    with configured(), pytest.raises(RuntimeError, match=r"because .*_solve takes .*counts, more"):
        hooked()(phy2log, log2phy, G)
