"""What an engine's placement file does not hold: said where it is harmless, refused where not."""

from __future__ import annotations

from evenload.formats.base import PlacementFile


def need_whole_gpus(file: PlacementFile, engine: str) -> None:
    """Raise `ValueError` for a placement with GPUs that are gone, or slots that are not equal.

    The engines know neither: every rank has as many slots, and every slot an expert.
    """
    cluster = file.placement.cluster
    if not cluster.all_alive:
        gone = next(g for g in range(cluster.num_gpus) if not cluster.alive[g])
        raise ValueError(
            f"{engine} has an expert in every slot, and GPU {gone} of this placement is gone; "
            "plan for the living GPUs alone"
        )
    if len(set(cluster.slots)) > 1:
        raise ValueError(
            f"{engine} has as many slots on each GPU, and this placement from {min(cluster.slots)} "
            f"to {max(cluster.slots)}; plan with slots that are a multiple of "
            f"num_gpus={cluster.num_gpus}"
        )


def left_out(file: PlacementFile, engine: str, *held: str) -> tuple[str, ...]:
    """Return a note that names what does not go into the file, or none.

    Parameters
    ----------
    file : PlacementFile
    engine : str
    *held : {"num_gpus", "layer numbers", "number of layers"}
        What the format has a place for, beside the experts.
    """
    cluster, layers = file.placement.cluster, file.layers
    there = {
        f"num_gpus={cluster.num_gpus}": "num_gpus" not in held,
        f"num_nodes={cluster.num_nodes}": cluster.num_nodes > 1,
        "the GPUs' speed": len(set(cluster.speed)) > 1,
        "the model's layer numbers": layers is not None and "layer numbers" not in held,
        "the model's number of layers": layers is not None
        and layers.num_model_layers is not None
        and "number of layers" not in held,
        "the solver": file.solver is not None,
        "the loads' digest": file.load_digest is not None,
    }
    names = [name for name, lost in there.items() if lost]
    if not names:
        return ()
    return (f"left out, since {engine}'s file has no place for it: {', '.join(names)}",)
