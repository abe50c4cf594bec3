"""What a straggler and a move cost, in seconds, from a few named numbers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from evenload.arrays import Float, Int, check_load
from evenload.checks import one_of, part, positive_int, positive_real
from evenload.cluster import Cluster
from evenload.cost.expert_time import ExpertTime
from evenload.cost.presets import HARDWARE, MODELS, UTILISATION, check_model_shape
from evenload.moves import Moves
from evenload.placement import Placement
from evenload.threads import spread

# DeepEP's page: dispatch inside a node takes tens of microseconds; about that until a transfer of
# tens of megabytes is under way.
LATENCY = 20e-6
# Our assumption: half. vLLM's use_async hides nearly all of it, SGLang's rebalance stops serving.
OVERLAP = 0.5
NAMES = ("model", "hardware")  # of presets, beside the numbers


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
    def num_bytes(self) -> float:
        """Bytes that cross a link."""
        return len(self.moves) * self.expert_bytes


@dataclass(frozen=True)
class CostModel:
    """What a straggler and a move cost.

    What a model and a machine tell has no default: `preset` knows some. A number that is not finite
    and above 0 is a `ValueError`.

    Examples
    --------
    >>> cost = CostModel(1000.0, 45e6, 450e9, 50e9)
    >>> cost.straggler_seconds([[300.0, 100.0], [250.0, 150.0]])
    array([0.3 , 0.25])
    """

    #: Tokens that a GPU of full speed puts through one expert in a second (a token routed to 8
    #: experts counts 8 times, as in a load).
    tokens_per_second: float
    expert_bytes: float  #: of one expert's weights in one layer
    bandwidth_in_node: float  #: bytes per second from a GPU to another of its node
    bandwidth_between_nodes: float  #: bytes per second from a GPU to one of another node
    latency: float = LATENCY  #: seconds before the first byte of a round of transfers arrives
    overlap: float = OVERLAP  #: part, 0 to 1, of the time of transfers in which serving goes on
    #: The preset whose experts these are, which `check_shape` holds a load against; empty where
    #: tokens and bytes are one's own.
    model: str = ""
    hardware: str = ""  #: the preset whose machine this is

    def __post_init__(self) -> None:
        for name, value in self.numbers.items():
            overlap = name == "overlap"
            checked = part(name, value, above_zero=False) if overlap else positive_real(name, value)
            self.__dict__[name] = checked

    @property
    def numbers(self) -> dict[str, float]:
        """All but the names of the presets."""
        return {name: value for name, value in self.__dict__.items() if name not in NAMES}

    @classmethod
    def preset(cls, hardware: str, model: str, **numbers: float) -> CostModel:
        """Return the costs of a model on a machine, but for the `numbers` given instead.

        The names are those of `hardware_names` and `model_names`; an unknown one is a `ValueError`
        that lists them, as is a number that is no parameter of a `CostModel`.
        """
        machine = HARDWARE[one_of("hardware", hardware, HARDWARE)]
        experts = MODELS[one_of("model", model, MODELS)]
        own = [field.name for field in fields(cls) if field.name not in NAMES]
        for name in numbers:
            if name not in own:
                raise ValueError(
                    f"{name} is not a number of a CostModel; use one of: {', '.join(own)}"
                )
        speed = UTILISATION * machine.flops(experts.dtype) / experts.operations
        links = machine.bandwidth_in_node, machine.bandwidth_between_nodes
        told = dict(zip(own, (speed, experts.num_bytes, *links), strict=False)) | numbers
        theirs = not {"tokens_per_second", "expert_bytes"} <= set(numbers)
        return cls(**told, model=model if theirs else "", hardware=hardware)

    def check_shape(self, num_layers: int, num_experts: int) -> None:
        """Raise `ValueError` if a load of that shape cannot be of the preset's model.

        Fewer layers than the model has may have been recorded.
        """
        if self.model:
            check_model_shape(self.model, num_layers, num_experts)

    @property
    def expert_time(self) -> ExpertTime:
        """An expert time without weights to wait for: proportional to the number of tokens."""
        return ExpertTime.linear(self.tokens_per_second)

    def straggler_seconds(self, gpu_load: Any, capacity: Any = None) -> Float:
        """Return the seconds of a layer's slowest GPU, float64 [...].

        `gpu_load` is [..., G], tokens on each GPU; `capacity` [G] is that of the `Cluster`, or None
        where all are alike.
        """
        load = np.asarray(gpu_load, np.float64)
        if capacity is not None:
            speed = np.asarray(capacity, np.float64)
            load = load[..., speed > 0] / speed[speed > 0]
        return self.expert_time.seconds(load.max(axis=-1))

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
        self, load: Any, cluster: Cluster, *, windows: int = 1, recorded_share: float = 1.0
    ) -> float:
        """Return what moving one expert costs in balancedness, for the solver ``"incremental"``.

        The seconds that serving stands still for one move, over those that a balanced layer takes
        until the next decision: what a move has to gain there, in the slowest GPU's time over the
        mean, to pay. Half of the GPUs are taken to send at once, to others of their node where
        there is one node, else to another node. The load [L, E] is of a window to come, or one like
        it; there are `windows` until the next decision. It holds `recorded_share`, in
        (0, 1], of the served tokens. One without tokens is a `ValueError`.

        Examples
        --------
        >>> cost = CostModel(1e6, 45e6, 450e9, 50e9, latency=1e-9, overlap=0.0)
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
        serving = tokens / (part("recorded_share", recorded_share) * self.tokens_per_second)
        return moving / (serving / float(cluster.capacity.sum()))
