"""How large what a file holds may be, and is: checked before memory is taken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evenload.checks import whole_number
from evenload.formats.base import FileFormatError
from evenload.formats.json_text import parse
from evenload.layers import ModelLayers

MOST_TEXT = 2**25  # bytes: 100 layers of 8192 slots, each on a line of its own
MOST_SLOTS = 2**26  # over all layers
MOST_LAYERS = 2**16


def check_text(path: Path, most: int = MOST_TEXT) -> None:
    """Raise `FileFormatError` if a text is larger than any placement."""
    size = path.stat().st_size
    if size > most:
        raise FileFormatError(
            f"{path}: the file has {size} bytes, more than the {most} that a placement is read "
            "from; is it one?"
        )


def parse_placement(path: Path) -> Any:
    """Return the value in a JSON file of a placement's size.

    Raises
    ------
    FileFormatError
        If the file is too large, or no JSON.
    """
    check_text(path)
    return parse(path)


def check_slots(layers: int, slots: int, where: str) -> None:
    """Raise `FileFormatError` if a placement has more slots over all layers than are read."""
    if layers * slots > MOST_SLOTS:
        raise FileFormatError(
            f"{where}: {layers} layers of {slots} slots are more than the {MOST_SLOTS} slots that "
            "are read; is it a placement?"
        )


def taken_experts(where: str, found: int) -> str:
    """Return the note that the number of experts was taken from the numbers that are there."""
    return (
        f"{where}: the number of experts is not in the file; taken as the largest expert number + "
        f"1 = {found}"
    )


def model_layers(ids: Sequence[Any], number: Any, where: str) -> ModelLayers:
    """Return the model's layers as a file says them.

    Parameters
    ----------
    ids : sequence
        What should be integers that rise.
    number
        Layers of the model, or None.
    where : str
        The file's name, for messages.

    Raises
    ------
    FileFormatError
        If they are no layers of a model.
    """
    try:
        numbers = [whole_number("layer id", i) for i in ids]
        most = None if number is None else whole_number("num_model_layers", number)
        for value in (*numbers, most or 0):
            if value > MOST_LAYERS:
                raise ValueError(
                    f"the model's layer {value} is past {MOST_LAYERS}; use what the model has"
                )
        return ModelLayers(numbers, most)
    except ValueError as error:
        raise FileFormatError(f"{where}: {error}") from None
