"""Packages that some formats need, imported when such a file is read."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from evenload.formats.base import FileFormatError


def needed(module: str, package: str, extra: str, where: str) -> Any:
    """Import a package that a file needs.

    Parameters
    ----------
    module, package : str
        What is imported, and what installs it.
    extra : str
        The extra of evenload that brings it.
    where : str
        The file's name, for the message.

    Raises
    ------
    FileFormatError
        If it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError:
        raise FileFormatError(
            f"{where}: reading it needs {package}, which is not installed; use pip install "
            f"'evenload[{extra}]'"
        ) from None
