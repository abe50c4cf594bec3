"""Water-filling as one Triton kernel: a program a layer, the same whole numbers as `tensors`.

A step is some operations on a square of GPUs (g and h are two of an expert), all in registers.
"""

import torch
import triton
import triton.language as tl

WARPS = 8  # of 1, 2, 4, 8 the fastest on an H200, for 16 and for 32 GPUs


@triton.jit
def _experts(counts, owner, g, E: tl.constexpr, G: tl.constexpr):
    """Return the tokens of the expert that fills each GPU in a step, and which GPUs it shares."""
    expert = tl.load(owner + g, mask=g < G, other=E)
    count = tl.load(counts + expert, mask=expert < E, other=0).to(tl.int64)
    return count, (expert[:, None] == expert[None, :]) & (expert[:, None] < E)


@triton.jit
def _fill(count, same, base, speed, before):
    """Return what each GPU gets of the expert that fills it, if it bears `base` of others."""
    over = base[:, None] * speed[None, :] - base[None, :] * speed[:, None]
    need = tl.sum(tl.where(same, tl.maximum(over, 0), 0), axis=1)
    wet_g = need < count * speed
    wet = same & wet_g[None, :]
    total = count + tl.sum(tl.where(wet, base[None, :], 0), axis=1)
    width = tl.maximum(tl.sum(tl.where(wet, speed[None, :], 0), axis=1), 1)
    level = total * speed // width
    left = total - tl.sum(tl.where(wet, level[None, :], 0), axis=1)
    first = tl.sum((wet & before).to(tl.int64), axis=1)
    return tl.where(wet_g, level - base + (first < left).to(tl.int64), 0)


@triton.jit(do_not_specialize=["rounds"])
def _fill_layers(
    counts, resident, owner, place, speed, out, rounds,
    E: tl.constexpr, X: tl.constexpr, G: tl.constexpr, C: tl.constexpr, K: tl.constexpr,
    G2: tl.constexpr, C2: tl.constexpr, K2: tl.constexpr,
):  # fmt: skip
    """Fill one layer; G2, C2 and K2 are G, C and K rounded up to powers of two."""
    layer = tl.program_id(0).to(tl.int64)
    counts += layer * E
    resident += layer * G * K
    owner += layer * C * G
    place += layer * C * G
    out += layer * E * X
    g = tl.arange(0, G2)
    c = tl.arange(0, C2)
    k = tl.arange(0, K2)
    before = g[None, :] < g[:, None]
    speed_g = tl.load(speed + g, mask=g < G, other=1)

    held = tl.load(
        resident + g[:, None] * K + k[None, :],
        mask=(g[:, None] < G) & (k[None, :] < K), other=E,
    )  # fmt: skip
    alone = tl.load(counts + held, mask=held < E, other=0)
    tl.store(out + held * X, alone.to(out.dtype.element_ty), mask=held < E)
    load = tl.sum(alone.to(tl.int64), axis=1)

    there = (c[:, None] < C) & (g[None, :] < G)
    quotas = tl.zeros([C2, G2], tl.int64)  # to begin with, the even split
    for i in range(C):
        count, same = _experts(counts, owner + i * G, g, E, G)
        width = tl.maximum(tl.sum(same.to(tl.int64), axis=1), 1)
        first = tl.sum((same & before).to(tl.int64), axis=1)
        quota = count // width + (first < count % width).to(tl.int64)
        load += quota
        quotas = tl.where(c[:, None] == i, quota[None, :], quotas)

    even_quotas = quotas
    even = tl.max(load * 1024 // speed_g, axis=0)

    r = 0
    changed = 1
    while r < rounds:
        r = tl.where(changed > 0, r + 1, rounds)  # nothing but the last can change anything then
        changed = 0
        for i in range(C):
            count, same = _experts(counts, owner + i * G, g, E, G)
            quota = tl.sum(tl.where(c[:, None] == i, quotas, 0), axis=0)
            base = tl.where(r == rounds, load, load * 3 // 2) - quota
            new = _fill(count, same, base, speed_g, before)
            changed += tl.sum((new != quota).to(tl.int32), axis=0)
            load += new - quota
            quotas = tl.where(c[:, None] == i, new[None, :], quotas)

    worse = tl.max(load * 1024 // speed_g, axis=0) > even
    quotas = tl.where(worse, even_quotas, quotas)
    target = tl.load(place + c[:, None] * G + g[None, :], mask=there, other=E * X)
    tl.store(out + target, quotas.to(out.dtype.element_ty), mask=target < E * X)


def water_fill(
    counts: torch.Tensor,
    tables: tuple[torch.Tensor, ...],
    rounds: int,
    out: torch.Tensor,
    num_warps: int | None = None,
) -> None:
    """Write how many of its expert's tokens each replica gets, [L, E, X], where it may get some.

    Takes counts [L, E] and tables from `tensors.to_device`; `out` comes in zeros. Either is of any
    dtype, contiguous, and on the device of the tables.
    """
    resident, owner, place, speed = tables
    L, E, X = out.shape
    C, G, K = owner.shape[1], owner.shape[2], resident.shape[2]
    G2, C2, K2 = (triton.next_power_of_2(size) for size in (G, C, K))
    _fill_layers[(L,)](
        counts, resident, owner, place, speed, out, rounds, E, X, G, C, K, G2, C2, K2,
        num_warps=num_warps or WARPS,
    )  # fmt: skip
