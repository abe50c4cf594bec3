"""Seconds from tokens, and seconds from moves, which go in rounds of transfers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import check_load
from evenload.checks import not_negative, positive_int, positive_real
from evenload.cluster import Cluster
from evenload.cost.presets import HARDWARE, MODELS
from evenload.moves import Moves, node_of
from evenload.placement import Placement
from evenload.threads import spread

Int = NDArray[np.int64]
Float = NDArray[np.float64]

# Part of a chip's most operations that its experts' matrix products reach. Our assumption: prefill
# and large decode batches come near it, small batches stay far below (give tokens_per_second then).
UTILISATION = 0.5
# DeepEP's page: dispatch inside a node takes tens of microseconds; about that until a transfer of
# tens of megabytes is under way.
LATENCY = 20e-6
# Our assumption: half. vLLM's use_async hides nearly all of it, SGLang's rebalance stops serving.
OVERLAP = 0.5


@dataclass(frozen=True, eq=False)
class Schedule:
    """Moves in rounds, layer after layer; in a round each GPU talks to one other at most.

    Two GPUs may send to each other in one round. A round lasts as long as its slowest transfer.

    Parameters
    ----------
    moves : Moves
    round_number : int64 ndarray, [M]
        Round of each move, from 0 in each layer.
    num_rounds : int64 ndarray, [L, 2]
        Rounds of each layer inside nodes only, and with transfers between nodes (which come first).
    layer_seconds : float64 ndarray, [L]
        Time from the previous layer's end until a layer is all there.
    expert_bytes : float
    """

    moves: Moves
    round_number: Int
    num_rounds: Int
    layer_seconds: Float
    expert_bytes: float

    @classmethod
    def of(cls, moves: Moves, expert_bytes: float, near: float, far: float) -> Schedule:
        """Put moves into rounds that last `near` seconds inside a node, and `far` across nodes."""
        from evenload.core.transfers import transfer_rounds

        L, G = moves.after.num_layers, moves.after.cluster.num_gpus
        number, rounds = np.empty(len(moves), np.int64), np.empty((L, 2), np.int64)
        node, start = node_of(moves.after), moves.first_of_layer
        links = np.bincount(moves.layer * G + moves.target, minlength=L * G)
        sent = moves.source >= 0
        links += np.bincount((moves.layer * G + moves.source)[sent], minlength=L * G)
        most = 2 * int(links.max(initial=0))

        def run(first: int, end: int) -> None:
            scratch = np.empty((2, most, G), np.int64)
            layers = start[first : end + 1], node, *scratch, number, rounds[first:end]
            transfer_rounds(moves.source, moves.target, *layers)

        spread(L, len(moves), run)
        return cls(moves, number, rounds, rounds @ np.array([near, far]), expert_bytes)

    @property
    def seconds(self) -> float:
        """Time until the last layer is all there."""
        return float(self.layer_seconds.sum())

    @cached_property
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
        if not len(self.moves):
            return 0
        pair = self.moves.layer * self.moves.after.cluster.num_gpus + self.moves.target
        return int(np.bincount(pair).max())


@dataclass(frozen=True)
class CostModel:
    """What a straggler and a move cost.

    The defaults are those of ``CostModel.preset("h100-ib", "deepseek-v3")``.

    Parameters
    ----------
    tokens_per_second : float
        Tokens that a GPU of full speed puts through one expert in a second (a token routed to 8
        experts counts 8 times, as in a load). Default: half of an H100's fp8 operations over those
        of one of DeepSeek-V3's experts.
    expert_bytes : float, default 44,040,192
        Bytes of one expert's weights in one layer.
    bandwidth_in_node : float, default 450e9
        Bytes a second from a GPU to another of its node.
    bandwidth_between_nodes : float, default 50e9
        Bytes a second from a GPU to one of another node.
    latency : float, default 20e-6
        Seconds before the first byte of a round of transfers arrives.
    overlap : float, default 0.5
        Part of the time of transfers in which serving goes on, 0 to 1. In the rest it stands still.

    Raises
    ------
    ValueError
        If a number is not finite and above 0, or the overlap is outside 0 to 1.

    Examples
    --------
    >>> cost = CostModel(tokens_per_second=1000.0)
    >>> cost.straggler_seconds([[300.0, 100.0], [250.0, 150.0]])
    array([0.3 , 0.25])
    """

    tokens_per_second: float = UTILISATION * 1979e12 / (2 * 3 * 7168 * 2048)
    expert_bytes: float = 3.0 * 7168 * 2048
    bandwidth_in_node: float = 450e9
    bandwidth_between_nodes: float = 50e9
    latency: float = LATENCY
    overlap: float = OVERLAP

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            check = not_negative if field.name == "overlap" else positive_real
            object.__setattr__(self, field.name, check(field.name, value))
        _at_most_one("overlap", self.overlap)

    @classmethod
    def preset(
        cls, hardware: str = "h100-ib", model: str = "deepseek-v3", **numbers: float
    ) -> CostModel:
        """Return the costs of a model on a machine.

        Parameters
        ----------
        hardware, model : str
            See `hardware_names` and `model_names`.
        **numbers
            Parameters of `CostModel` to be taken instead.

        Raises
        ------
        ValueError
            For an unknown name (the message lists those that are known), an unknown number, or as
            `CostModel`.
        """
        for argument, name, presets in (
            ("hardware", hardware, HARDWARE),
            ("model", model, MODELS),
        ):
            if name not in presets:
                raise ValueError(
                    f"{argument}={name!r} is unknown; use one of: {', '.join(presets)}"
                )
        machine, experts = HARDWARE[hardware], MODELS[model]
        known = [field.name for field in fields(cls)]
        for name in numbers:
            if name not in known:
                raise ValueError(
                    f"{name} is no number of a CostModel; use one of: {', '.join(known)}"
                )
        speed = UTILISATION * machine.flops(experts.dtype) / experts.flops
        given: dict[str, Any] = {
            "tokens_per_second": speed,
            "expert_bytes": experts.num_bytes,
            "bandwidth_in_node": machine.bandwidth_in_node,
            "bandwidth_between_nodes": machine.bandwidth_between_nodes,
        }
        return cls(**(given | numbers))

    def straggler_seconds(self, gpu_load: Any, capacity: Any = None) -> Float:
        """Return how long a layer takes: until its last GPU is done.

        Parameters
        ----------
        gpu_load : array_like, [..., G]
            Tokens on each GPU.
        capacity : array_like, [G], optional
            Speed of each GPU relative to the fastest, 0 for one that is gone; see
            `Cluster.capacity`. Default: all alike.

        Returns
        -------
        float64 ndarray, [...]
            Seconds.
        """
        load = np.asarray(gpu_load, np.float64)
        if capacity is not None:
            speed = np.asarray(capacity, np.float64)
            load = load[..., speed > 0] / speed[speed > 0]
        seconds: Float = load.max(axis=-1) / self.tokens_per_second
        return seconds

    def schedule(self, before: Placement, after: Placement) -> Schedule:
        """Return how the experts get from one placement to another.

        Raises
        ------
        ValueError
            If the two differ in layers, experts or number of GPUs.
        """
        near = self.latency + self.expert_bytes / self.bandwidth_in_node
        far = self.latency + self.expert_bytes / self.bandwidth_between_nodes
        return Schedule.of(Moves.between(before, after), self.expert_bytes, near, far)

    def move_seconds(self, schedule: Schedule) -> float:
        """Return the seconds that serving stands still for a schedule of moves."""
        return (1.0 - self.overlap) * schedule.seconds

    def move_cost(
        self, load: Any, cluster: Cluster, *, windows: int = 1, sample: float = 1.0
    ) -> float:
        """Return what moving one expert costs in balancedness, for the solver ``"incremental"``.

        The seconds that serving stands still for one move, over those that a balanced layer takes
        until the next decision: what a move has to gain there to pay. Half of the GPUs are taken to
        send at once, to others of their node where there is one node, else to another node.

        Parameters
        ----------
        load : array_like, [L, E]
            Tokens of a window to come, or one like it.
        cluster : Cluster
        windows : int, default 1
            Such windows until the next decision.
        sample : float, default 1.0
            Part of the served tokens that the load has, as in `evenload.replay.replay`.

        Returns
        -------
        float
            In balancedness (more exactly: in the last GPU's time over the mean), 0 where all of
            the transfers are hidden behind serving.

        Raises
        ------
        ValueError
            For an illegal load, one without tokens, fewer than one window, or a sample outside
            (0, 1].

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
        serving = tokens / (check_sample(sample) * self.tokens_per_second)
        return moving / (serving / float(cluster.capacity.sum()))


def check_sample(sample: Any) -> float:
    """Return `sample` as a float in (0, 1], or raise `ValueError`."""
    return _at_most_one("sample", positive_real("sample", sample))


def _at_most_one(name: str, part: float) -> float:
    if part > 1.0:
        raise ValueError(f"{name}={part} is a part and more than 1; use 1 or less")
    return part
