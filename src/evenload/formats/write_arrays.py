"""Traces written as NumPy arrays, window by window: memory does not grow with the trace."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import check_weights
from evenload.formats.base import RawTrace


def checked_windows(trace: RawTrace) -> Iterator[NDArray[Any]]:
    """Yield each window as it was recorded, in order; gaps are kept.

    Raises
    ------
    ValueError
        If a number is not finite and >= 0, or is past what float64 holds exactly.
    """
    for t in range(trace.windows.shape[0]):
        window = trace.windows.read(t)
        check_weights(f"window {t}: load", window)
        yield window


def layers_left_out(trace: RawTrace, what: str) -> tuple[str, ...]:
    """Return a note that the model's layer numbers are not kept, where they are known."""
    if trace.layers is None:
        return ()
    ids = trace.layers.ids
    return (
        f"left out, since a {what} file has no place for it: the model's layer numbers "
        f"({ids[0]} to {ids[-1]})",
    )


def _write_windows(stream: IO[bytes], trace: RawTrace) -> None:
    """Write the windows as one array [T, L, E] in the .npy layout."""
    dtype = None
    for window in checked_windows(trace):
        if dtype is None:
            dtype = window.dtype.newbyteorder("<")
            descr = np.lib.format.dtype_to_descr(dtype)
            header = {"descr": descr, "fortran_order": False, "shape": trace.windows.shape}
            np.lib.format.write_array_header_1_0(stream, header)
        stream.write(window.astype(dtype, order="C", casting="safe", copy=False).tobytes())


def write_npy(stream: BinaryIO, trace: RawTrace) -> tuple[str, ...]:
    """Write a trace as one array [T, L, E], in the dtype that it was recorded in.

    Raises
    ------
    ValueError
        As `checked_windows`.
    """
    _write_windows(stream, trace)
    return layers_left_out(trace, ".npy")


def write_npz(stream: BinaryIO, trace: RawTrace) -> tuple[str, ...]:
    """Write a trace as ``load`` [T, L, E], and the model's layers where they are known.

    Raises
    ------
    ValueError
        As `checked_windows`.
    """
    with zipfile.ZipFile(stream, "w", allowZip64=True) as archive:
        with archive.open("load.npy", "w", force_zip64=True) as member:
            _write_windows(member, trace)
        if trace.layers is not None:
            write_member(archive, "layer_ids", np.array(trace.layers.ids, np.int64))
            if trace.layers.num_model_layers is not None:
                number = np.array(trace.layers.num_model_layers, np.int64)
                write_member(archive, "num_model_layers", number)
    return ()


def write_member(archive: zipfile.ZipFile, key: str, array: NDArray[Any]) -> None:
    """Write one small array of an archive; its bytes do not depend on the time."""
    packed = io.BytesIO()
    np.lib.format.write_array(packed, array, allow_pickle=False)
    archive.writestr(zipfile.ZipInfo(f"{key}.npy"), packed.getvalue())
