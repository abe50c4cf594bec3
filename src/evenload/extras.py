"""Packages of extras, imported when something needs them."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def needed(
    module: str,
    package: str,
    extra: str,
    what: str,
    *,
    instead: str = "",
    error: type[ValueError] = ValueError,
) -> Any:
    """Import a module of a package that evenload does not always bring.

    Parameters
    ----------
    module, package : str
        What is imported, and what installs it.
    extra : str
        The extra of evenload that brings it.
    what : str
        What needs it, for the message.
    instead : str, default ""
        What does not need it, for the message.
    error : type, default ValueError
        What is raised.

    Raises
    ------
    ValueError
        If it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError:
        other = f", or {instead}" if instead else ""
        raise error(
            f"{what} needs {package}, which is not installed; use pip install "
            f"'evenload[{extra}]'{other}"
        ) from None
