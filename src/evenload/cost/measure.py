"""Measure what experts of one GPU take, with torch: the points of a curve of `ExpertTime`.

What is measured is one MoE layer without its communication: gate and up in one grouped matrix
product, the activation in torch's own kernels, and down in a second product. Engines have kernels
of their own, which may be faster; a launch costs as little as in a CUDA graph, as when they decode.
"""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from evenload.checks import one_of, positive_int
from evenload.extras import needed

DTYPES = {"bf16": "bfloat16", "fp8": "float8_e4m3fn"}


class Effort(NamedTuple):
    """How much a measurement does."""

    experts: int  # active at once, at most, if the caller does not say
    tokens: int  # of one expert, at most
    all_tokens: int  # of all active experts together, at most
    read: float  # bytes of weights read before any is read again: far more than a cache holds
    calls: int  # in one run, at most
    repeats: int  # runs, of which the median counts


ON_GPU = Effort(32, 4096, 65536, 512e6, 64, 7)  # the L2 of an H100 holds 50 MB, of a B200 126 MB
ON_CPU = Effort(4, 64, 256, 64e6, 8, 3)


@dataclass(frozen=True)
class Measured:
    """What was measured, and on what."""

    points: list[tuple[int, int, float]]  #: active experts, tokens of each of them, seconds of all
    about: dict[str, str]  #: the machine, versions, and what the points are of
    notes: list[str]  #: what could not be done as asked

    def write(self, path: str | PathLike[str]) -> None:
        """Write a CSV file that `ExpertTime.read` takes."""
        lines = [f"# {name}: {value}" for name, value in self.about.items()]
        lines += [f"# note: {note}" for note in self.notes]
        lines += ["active,tokens,seconds", *(f"{a},{n},{t:.6e}" for a, n, t in self.points)]
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def powers_up_to(most: int) -> list[int]:
    """Return the powers of two up to a number, and the number."""
    return sorted({*(2**k for k in range(most.bit_length())), most})


def measure_expert_time(
    hidden_size: int,
    intermediate_size: int,
    dtype: str = "bf16",
    *,
    num_experts: int | None = None,
    device: str | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Measured:
    """Measure a layer with 1 to `num_experts` active experts and 1 to 4096 tokens for each.

    Parameters
    ----------
    hidden_size, intermediate_size : int
        Sides of the experts' matrices, multiples of 16.
    dtype : str
        Of the weights: ``"bf16"``, or ``"fp8"`` (one scale per row; a GPU that has it).
    num_experts : int, optional
        Most experts that are active at once. Default: 32, and 4 on a CPU.
    device : str, optional
        ``"cuda"`` or ``"cpu"``. Default: the GPU, if torch finds one. A CPU does less: at most 64
        tokens per expert.
    tell : callable, optional
        Called with the points done, and how many there are.

    Returns
    -------
    Measured
        Seconds by active experts and tokens per expert, each the median of several runs. At most
        65,536 tokens (256 on a CPU) go through a layer.

    Raises
    ------
    ValueError
        If an argument is out of range, or torch is missing, or cannot multiply in this dtype.
    """
    torch = needed("torch", "torch", "torch", "measuring the time of experts")
    H, I = _side("hidden_size", hidden_size), _side("intermediate_size", intermediate_size)  # noqa: E741
    one_of("dtype", dtype, DTYPES)
    found = "cuda" if torch.cuda.is_available() else "cpu"
    if one_of("device", device or found, ("cuda", "cpu")) == "cuda" != found:
        raise ValueError("device='cuda' is not here, torch finds no GPU; use 'cpu'")
    where = torch.device(device or found)
    effort = ON_GPU if where.type == "cuda" else ON_CPU
    most = effort.experts if num_experts is None else positive_int("num_experts", num_experts)
    layer = _Layer(torch, where, H, I, dtype, most, effort)
    shapes = [
        (active, tokens)
        for active in powers_up_to(layer.most_active)
        for tokens in powers_up_to(effort.tokens)
        if active * tokens <= max(effort.all_tokens, layer.most_active)
    ]
    clock = _Clock(torch, where, effort)
    clock.warm_up(layer.calls(1, min(effort.tokens, 1024)))
    points = []
    for done, (active, tokens) in enumerate(shapes):
        tell(done, len(shapes))
        points.append((active, tokens, clock.seconds(layer.calls(active, tokens))))
    sizes = {"hidden": str(H), "intermediate": str(I), "dtype": dtype}
    return Measured(points, _about(torch, where, layer.product, sizes), layer.notes + clock.notes)


def _side(name: str, value: Any) -> int:
    """Take a multiple of 16, which rows of 8 and 16 bits need to lie where products read them."""
    side = positive_int(name, value)
    if side % 16:
        near = max(16, side // 16 * 16)
        raise ValueError(f"{name}={side} is not a multiple of 16; use {near} or {near + 16}")
    return side


def _about(torch: Any, where: Any, product: str, sizes: dict[str, str]) -> dict[str, str]:
    return {
        "what": "seconds of gate and up, activation and down of all active experts of one layer",
        **sizes,
        "device": torch.cuda.get_device_name()
        if where.type == "cuda"
        else f"a CPU ({platform.machine()})",
        "product": product,
        "torch": str(torch.__version__),
        "cuda": str(torch.version.cuda),
        "python": platform.python_version(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


class _Layer:
    """The weights of experts that all differ, and calls that go through them in turn."""

    def __init__(
        self, torch: Any, where: Any, H: int, I: int, dtype: str, most: int, effort: Effort  # noqa: E741
    ) -> None:  # fmt: skip
        self.torch, self.where, self.I, self.effort = torch, where, I, effort
        self.type = getattr(torch, DTYPES[dtype])
        self.notes: list[str] = []
        self.bytes_of_one = 3 * H * I * self.type.itemsize
        self.most_active = most
        if where.type == "cuda":  # half of what is free: activations, and graphs, take some too
            fit = int(torch.cuda.mem_get_info()[0] / 2 / self.bytes_of_one)
            if fit < most:
                self.most_active = max(fit, 1)
                self.notes.append(f"memory holds {self.most_active} of {most} experts")
        pool = max(self.most_active, min(math.ceil(effort.read / self.bytes_of_one), 1024))
        torch.manual_seed(0)
        self.up, self.down = self._random(pool, 2 * I, H), self._random(pool, H, I)
        self.x = self._random(1, max(effort.all_tokens, self.most_active), H)[0]
        self.product, self.multiply = self._find_product(dtype)

    def _random(self, count: int, rows: int, columns: int) -> Any:
        """Return matrices of numbers such that products are about as large as their factors."""
        result = self.torch.empty(
            (count, rows, columns), dtype=self.type, device=self.where
        )  # one by one: torch draws no fp8
        for matrix in result:
            drawn = self.torch.randn((rows, columns), dtype=self.torch.bfloat16, device=self.where)
            matrix.copy_(drawn if count == 1 else drawn * columns**-0.5)
        return result

    def _find_product(self, dtype: str) -> tuple[str, Callable[..., Any]]:
        """Return the name of a product that runs here, and it: of rows, matrices and ends."""
        torch = self.torch
        known: dict[str, Callable[..., Any]] = {}
        if dtype == "fp8":
            ones = torch.ones(max(len(self.x), self.up[..., 0].numel(), self.down[..., 0].numel()),
                              device=self.where)  # fmt: skip

            def scaled(x: Any, w: Any, ends: Any) -> Any:
                scales = ones[: len(x)], ones[: w.shape[0] * w.shape[1]].view(w.shape[:2])
                how = {"out_dtype": torch.bfloat16, "use_fast_accum": True}
                return torch._scaled_grouped_mm(x, w.transpose(1, 2), *scales, offs=ends, **how)

            known["torch._scaled_grouped_mm"] = scaled
        else:
            public = getattr(torch.nn.functional, "grouped_mm", None)
            for name, call in (
                ("torch.nn.functional.grouped_mm", public),
                ("torch._grouped_mm", getattr(torch, "_grouped_mm", None)),
            ):
                if call is not None:
                    known[name] = lambda x, w, ends, call=call: call(
                        x, w.transpose(1, 2), offs=ends
                    )
            known["torch.matmul"] = _one_by_one
        why = ""
        for name, multiply in known.items():
            try:
                ends = torch.tensor([1], dtype=torch.int32, device=self.where)
                multiply(self.x[:1], self.up[:1], ends)
            except (RuntimeError, AttributeError, NotImplementedError) as error:
                why = " ".join(str(error).split())[:200]
                continue
            if name == "torch.matmul":
                self.notes.append("no grouped product here: the experts' products run one by one")
            return name, multiply
        raise ValueError(f"dtype={dtype!r} cannot be multiplied here ({why}); use 'bf16'")

    def calls(self, active: int, tokens: int) -> list[Callable[[], object]]:
        """Return calls of the layer that read other experts each, for as long as there are any."""
        torch, effort = self.torch, self.effort
        ends = torch.arange(1, active + 1, dtype=torch.int32, device=self.where) * tokens
        x = self.x[: active * tokens]
        count = math.ceil(effort.read / (active * self.bytes_of_one))
        starts = list(range(0, len(self.up) - active + 1, active))

        def call(first: int) -> object:
            both = self.multiply(x, self.up[first : first + active], ends)
            inner = torch.nn.functional.silu(both[:, : self.I]) * both[:, self.I :]
            return self.multiply(inner.to(self.type), self.down[first : first + active], ends)

        chosen = [starts[i % len(starts)] for i in range(min(max(count, 2), effort.calls))]
        return [lambda first=first: call(first) for first in chosen]  # type: ignore[misc]


def _one_by_one(x: Any, w: Any, ends: Any) -> Any:
    """Multiply as many rows with each matrix; ends are not read, that would wait for the GPU."""
    return (x.view(len(w), -1, x.shape[1]) @ w.transpose(1, 2)).view(len(x), -1)


class _Clock:
    """The time of a call: by events around a CUDA graph of many, or by this process's clock."""

    def __init__(self, torch: Any, where: Any, effort: Effort) -> None:
        self.torch, self.cuda, self.effort = torch, where.type == "cuda", effort
        self.stream = torch.cuda.Stream() if self.cuda else None
        self.notes: list[str] = []

    def warm_up(self, calls: list[Callable[[], object]]) -> None:
        """Work for half a second: a GPU at rest has a low clock."""
        end = time.perf_counter() + (0.5 if self.cuda else 0.0)
        while time.perf_counter() < end:
            for call in calls:
                call()
            self.torch.cuda.synchronize()

    def seconds(self, calls: list[Callable[[], object]]) -> float:
        """Return the median of a call's seconds."""
        calls[0]()
        run = self._graph(calls) if self.cuda else lambda: [call() for call in calls]
        run()
        median = statistics.median(self._runs(run)) / len(calls)
        del run
        if self.cuda:  # of a graph
            self.torch.cuda.empty_cache()
        return median

    def _graph(self, calls: list[Callable[[], object]]) -> Callable[[], object]:
        torch = self.torch
        if self.notes:
            return lambda: [call() for call in calls]
        try:
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.stream(self.stream):  # torch.cuda.graph would empty all caches first
                graph.capture_begin()
                try:
                    for call in calls:
                        call()
                finally:  # else nothing else could run on the GPU
                    graph.capture_end()
        except RuntimeError as error:
            torch.cuda.synchronize()
            self.notes.append(f"no CUDA graph, so launches count: {' '.join(str(error).split())}")
            return lambda: [call() for call in calls]
        replay: Callable[[], object] = graph.replay
        return replay

    def _runs(self, run: Callable[[], object]) -> Iterator[float]:
        for _ in range(self.effort.repeats):
            if not self.cuda:
                start = time.perf_counter()
                run()
                yield time.perf_counter() - start
                continue
            begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.torch.cuda.synchronize()
            begin.record()
            run()
            end.record()
            self.torch.cuda.synchronize()
            yield begin.elapsed_time(end) / 1000
