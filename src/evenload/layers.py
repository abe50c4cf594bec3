"""Which of a model's layers the rows of a load or a placement are."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelLayers:
    """The model's own numbers of the MoE layers, where a file says them.

    Examples
    --------
    >>> ModelLayers((3, 4, 5), 6).dense
    (0, 1, 2)
    """

    ids: Sequence[int]  #: number in the model of each of the L rows, rising from 0 or more
    num_model_layers: int | None = None  #: dense ones included, where that is known

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(int(i) for i in self.ids))
        for lower, higher in zip((-1, *self.ids), self.ids, strict=False):
            if higher <= lower:
                raise ValueError(
                    f"layer ids {self.ids}: {higher} follows {lower}; use numbers that rise from 0"
                )
        if not self.ids:
            raise ValueError("layer ids are empty; use at least 1")
        if self.num_model_layers is not None and self.num_model_layers <= self.ids[-1]:
            raise ValueError(
                f"num_model_layers={self.num_model_layers} is too few for layer {self.ids[-1]}; "
                f"use {self.ids[-1] + 1} or more"
            )

    @property
    def dense(self) -> tuple[int, ...]:
        """Layers without experts; empty where the model's number of layers is not known."""
        return tuple(i for i in range(self.num_model_layers or 0) if i not in self.ids)

    def __len__(self) -> int:
        return len(self.ids)
