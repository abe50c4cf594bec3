"""What a straggler and a move cost, in seconds, from a few named numbers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from evenload.arrays import Float, Int, check_load
from evenload.checks import one_of, part, positive_int, positive_real
from evenload.cluster import Cluster
from evenload.moves import Moves
from evenload.placement import Placement
from evenload.threads import spread

__all__ = ["CostModel", "Experts", "Hardware", "Schedule", "hardware_names", "model_names"]


# Part of a chip's most operations that its experts' matrix products reach. Our assumption: prefill
# and large decode batches come near it, small batches stay far below (give tokens_per_second then).
UTILISATION = 0.5
# DeepEP's page: dispatch inside a node takes tens of microseconds; about that until a transfer of
# tens of megabytes is under way.
LATENCY = 20e-6
# Our assumption: half. vLLM's use_async hides nearly all of it, SGLang's rebalance stops serving.
OVERLAP = 0.5


class Hardware(NamedTuple):
    """One GPU: peak dense operations per second with weights of 16 (and 4) and of 8 bits.

    And bytes per second that it sends to another one in its node, and in another node.
    """

    flops_16: float
    flops_8: float
    bandwidth_in_node: float
    bandwidth_between_nodes: float


HARDWARE = {
    # NVIDIA H100 SXM data sheet: 989 TFLOPS bf16, 1,979 fp8 without sparsity; NVLink 900 GB/s, both
    # directions together. One ConnectX-7 InfiniBand card of 400 Gb/s a GPU (DGX H100).
    "h100-ib": Hardware(989e12, 1979e12, 450e9, 50e9),
    # NVIDIA H200 data sheet: the same chip and links with more memory.
    "h200-ib": Hardware(989e12, 1979e12, 450e9, 50e9),
    # The H800 of DeepSeek's reports: NVLink cut to 400 GB/s both ways, of which DeepEP's page
    # counts 160 GB/s as reachable; 50 GB/s InfiniBand.
    "h800-ib": Hardware(989e12, 1979e12, 160e9, 50e9),
    # Huawei's CloudMatrix384 (arXiv 2506.12708): an Ascend 910C does 752 TFLOPS in bf16 and twice
    # that in int8, and has 392 GB/s of unified bus and 400 Gb/s of RDMA. A node is what the bus
    # joins, up to the whole supernode.
    "ascend-910c": Hardware(752e12, 1504e12, 392e9, 50e9),
    # Atlas 800T A2: an Ascend 910B does 376 TFLOPS, half a 910C; HCCS joins 8 by 7 links of 56 GB/s
    # both ways each, of which one serves a pair: 28 GB/s. 200 Gb/s RoCE a chip.
    "ascend-910b": Hardware(376e12, 752e12, 28e9, 25e9),
    # NVIDIA L40S data sheet: 362 TFLOPS bf16, 733 fp8 without sparsity; PCIe 4.0 x16, 32 GB/s one
    # way and no NVLink. 100 Gb/s Ethernet a GPU is our assumption.
    "l40s-pcie": Hardware(362e12, 733e12, 32e9, 12.5e9),
    # NVIDIA H100 PCIe product brief: 756 TFLOPS bf16, 1,513 fp8; PCIe 5.0 x16, 64 GB/s one way,
    # without NVLink bridges. 200 Gb/s a GPU is our assumption.
    "h100-pcie": Hardware(756e12, 1513e12, 64e9, 25e9),
}

# Bytes of a weight, scales of a block of weights left out where they are less than 0.1 %.
WEIGHT_BYTES = {"bf16": 2.0, "fp8": 1.0, "mxfp4": 4.25 / 8}  # OCP MX: 8 scale bits for 32 weights
MATRICES = 3  # gate, up and down projection
FLOPS_A_WEIGHT = 2.0  # and token: a product and a sum


class Experts(NamedTuple):
    """The experts of a model as published: sides of their matrices, layers that have any."""

    hidden_size: int
    intermediate_size: int
    dtype: str
    num_layers: int
    num_experts: int

    @property
    def weights(self) -> int:
        """Weights of one expert."""
        return MATRICES * self.hidden_size * self.intermediate_size

    @property
    def num_bytes(self) -> float:
        """Bytes of one expert."""
        return self.weights * WEIGHT_BYTES[self.dtype]


# From the config.json that each model is published with on Hugging Face; the size of its experts is
# hidden_size x moe_intermediate_size (intermediate_size for gpt-oss and Mixtral).
MODELS = {
    "deepseek-v3": Experts(7168, 2048, "fp8", 58, 256),  # deepseek-ai/DeepSeek-V3
    "deepseek-r1": Experts(7168, 2048, "fp8", 58, 256),  # deepseek-ai/DeepSeek-R1
    "deepseek-v2-lite": Experts(2048, 1408, "bf16", 26, 64),  # deepseek-ai/DeepSeek-V2-Lite
    "qwen3-235b-a22b": Experts(4096, 1536, "bf16", 94, 128),  # Qwen/Qwen3-235B-A22B
    "qwen3-30b-a3b": Experts(2048, 768, "bf16", 48, 128),  # Qwen/Qwen3-30B-A3B
    "gpt-oss-20b": Experts(2880, 2880, "mxfp4", 24, 32),  # openai/gpt-oss-20b
    "gpt-oss-120b": Experts(2880, 2880, "mxfp4", 36, 128),  # openai/gpt-oss-120b
    "kimi-k2": Experts(7168, 2048, "fp8", 60, 384),  # moonshotai/Kimi-K2-Instruct
    "glm-4.5": Experts(5120, 1536, "bf16", 89, 160),  # zai-org/GLM-4.5
    "mixtral-8x7b": Experts(4096, 14336, "bf16", 32, 8),  # mistralai/Mixtral-8x7B-v0.1
    "mixtral-8x22b": Experts(6144, 16384, "bf16", 56, 8),  # mistralai/Mixtral-8x22B-v0.1
}


@dataclass(frozen=True, eq=False)
class Schedule:
    """Moves in rounds, layer after layer; in a round each GPU talks to one other at most.

    Two GPUs may send to each other in one round. A round lasts as long as its slowest transfer.
    """

    moves: Moves
    round_number: Int  #: [M], from 0 in each layer
    num_rounds: (
        Int  #: [L, 2], inside nodes only, and with transfers between them (which come first)
    )
    layer_seconds: Float  #: [L], from the previous layer's end until a layer is all there
    expert_bytes: float

    @property
    def seconds(self) -> float:
        """Time until the last layer is all there."""
        return float(self.layer_seconds.sum())

    @property
    def finished(self) -> Float:
        """When each layer is all there, in seconds from the start: float64 [L]."""
        return np.cumsum(self.layer_seconds)

    @property
    def layer_bytes(self) -> Float:
        """Bytes that cross a link in each layer, float64 [L]."""
        return np.diff(self.moves.first_of_layer) * self.expert_bytes

    @property
    def num_bytes(self) -> float:
        """Bytes that cross a link."""
        return len(self.moves) * self.expert_bytes

    @property
    def spare_experts(self) -> int:
        """Experts that a GPU receives in one layer, at most: it needs memory beside its slots."""
        pair = self.moves.layer * self.moves.after.cluster.num_gpus + self.moves.target
        return int(np.bincount(pair).max(initial=0))


@dataclass(frozen=True)
class CostModel:
    """What a straggler and a move cost.

    The defaults are those of ``CostModel.preset("h100-ib", "deepseek-v3")``. A number that is not
    finite and above 0 is a `ValueError`.

    Examples
    --------
    >>> cost = CostModel(tokens_per_second=1000.0)
    >>> cost.straggler_seconds([[300.0, 100.0], [250.0, 150.0]])
    array([0.3 , 0.25])
    """

    #: Tokens that a GPU of full speed puts through one expert in a second (a token routed to 8
    #: experts counts 8 times, as in a load). Default: half of an H100's fp8 operations over those
    #: of one of DeepSeek-V3's experts.
    tokens_per_second: float = UTILISATION * 1979e12 / (2 * 3 * 7168 * 2048)
    expert_bytes: float = 3.0 * 7168 * 2048  #: of one expert's weights in one layer
    bandwidth_in_node: float = 450e9  #: bytes a second from a GPU to another of its node
    bandwidth_between_nodes: float = 50e9  #: bytes a second from a GPU to one of another node
    latency: float = LATENCY  #: seconds before the first byte of a round of transfers arrives
    overlap: float = OVERLAP  #: part, 0 to 1, of the time of transfers in which serving goes on

    def __post_init__(self) -> None:
        for name, value in self.__dict__.items():
            overlap = name == "overlap"
            checked = part(name, value, above_zero=False) if overlap else positive_real(name, value)
            self.__dict__[name] = checked

    @classmethod
    def preset(
        cls, hardware: str = "h100-ib", model: str = "deepseek-v3", **numbers: float
    ) -> CostModel:
        """Return the costs of a model on a machine, but for the `numbers` given instead.

        The names are those of `hardware_names` and `model_names`; an unknown one is a `ValueError`
        that lists them, as is a number that is no parameter of a `CostModel`.
        """
        flops_16, flops_8, *links = HARDWARE[one_of("hardware", hardware, HARDWARE)]
        experts = MODELS[one_of("model", model, MODELS)]
        own = [field.name for field in fields(cls)]
        for name in numbers:
            if name not in own:
                raise ValueError(
                    f"{name} is no number of a CostModel; use one of: {', '.join(own)}"
                )
        flops = flops_8 if experts.dtype == "fp8" else flops_16
        speed = UTILISATION * flops / (FLOPS_A_WEIGHT * experts.weights)
        return cls(**dict(zip(own, (speed, experts.num_bytes, *links), strict=False)) | numbers)

    def straggler_seconds(self, gpu_load: Any, capacity: Any = None) -> Float:
        """Return the seconds that a layer takes until its last GPU is done, float64 [...].

        `gpu_load` is [..., G], tokens on each GPU; `capacity` [G] is that of the `Cluster`, or None
        where all are alike.
        """
        load = np.asarray(gpu_load, np.float64)
        if capacity is not None:
            speed = np.asarray(capacity, np.float64)
            load = load[..., speed > 0] / speed[speed > 0]
        seconds: Float = load.max(axis=-1) / self.tokens_per_second
        return seconds

    def schedule(self, before: Placement, after: Placement) -> Schedule:
        """Put the moves from one placement to another into rounds; see `Moves.between`."""
        from evenload.core.transfers import transfer_rounds

        moves = Moves.between(before, after)
        L, G = after.num_layers, after.cluster.num_gpus
        number, rounds = np.empty(len(moves), np.int64), np.empty((L, 2), np.int64)
        node, start = after.cluster.node_of_gpu, moves.first_of_layer
        links = np.bincount(moves.layer * G + moves.target, minlength=L * G)
        sent = moves.source >= 0
        links += np.bincount((moves.layer * G + moves.source)[sent], minlength=L * G)
        most = 2 * int(links.max(initial=0))

        def run(first: int, end: int) -> None:
            scratch = np.empty((2, most, G), np.int64)
            layers = start[first : end + 1], node, *scratch, number, rounds[first:end]
            transfer_rounds(moves.source, moves.target, *layers)

        spread(L, len(moves), run)
        bandwidth = np.array([self.bandwidth_in_node, self.bandwidth_between_nodes])
        seconds = rounds @ (self.latency + self.expert_bytes / bandwidth)
        return Schedule(moves, number, rounds, seconds, self.expert_bytes)

    def move_seconds(self, schedule: Schedule) -> float:
        """Return the seconds that serving stands still for a schedule of moves."""
        return (1.0 - self.overlap) * schedule.seconds

    def move_cost(
        self, load: Any, cluster: Cluster, *, windows: int = 1, sample: float = 1.0
    ) -> float:
        """Return what moving one expert costs in balancedness, for the solver ``"incremental"``.

        The seconds that serving stands still for one move, over those that a balanced layer takes
        until the next decision: what a move has to gain there, in the last GPU's time over the
        mean, to pay. Half of the GPUs are taken to send at once, to others of their node where
        there is one node, else to another node. The load [L, E] is of a window to come, or one like
        it; there are `windows` until the next decision. It has the part `sample`, in (0, 1], of the
        served tokens. One without tokens is a `ValueError`.

        Examples
        --------
        >>> cost = CostModel(tokens_per_second=1e6, expert_bytes=45e6, latency=1e-9, overlap=0.0)
        >>> round(cost.move_cost([[1000.0, 1000.0]], Cluster(2, slots_per_gpu=1)), 4)
        0.1
        """
        tokens = float(check_load(load)[0].sum(axis=1).mean()) * positive_int("windows", windows)
        if tokens == 0.0:
            raise ValueError("load has no tokens, and a move cannot pay there; use another window")
        far = cluster.num_nodes > 1
        bandwidth = self.bandwidth_between_nodes if far else self.bandwidth_in_node
        at_once = max(len(cluster.living_gpus) // 2, 1)
        moving = (1.0 - self.overlap) * (self.latency + self.expert_bytes / bandwidth) / at_once
        serving = tokens / (part("sample", sample) * self.tokens_per_second)
        return moving / (serving / float(cluster.capacity.sum()))


def hardware_names() -> list[str]:
    """Return the machines that `CostModel.preset` knows."""
    return list(HARDWARE)


def model_names() -> list[str]:
    """Return the models that `CostModel.preset` knows."""
    return list(MODELS)
