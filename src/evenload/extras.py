"""Packages of extras, imported when something needs them."""

from importlib import import_module
from typing import Any

SOURCE = "."
"""What pip installs: a checkout, until evenload is on PyPI; from then on ``evenload``."""


def how_to_install(extra: str = "") -> str:
    """Say how evenload is installed today, with an extra where one is named."""
    command = f"pip install '{SOURCE}[{extra}]'" if extra else f"pip install {SOURCE}"
    return f"{command} in a checkout of evenload" if SOURCE == "." else command


def needed(
    module: str,
    package: str,
    extra: str,
    what: str,
    *,
    instead: str = "",
    error: type[ValueError] = ValueError,
) -> Any:
    """Import a module of a `package` that an `extra` of evenload brings, or raise `error`.

    The message says `what` needs it, and what would do `instead` of that.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError:
        other = f", or {instead}" if instead else ""
        raise error(
            f"{what} needs {package}, which is not installed; use {how_to_install(extra)}{other}"
        ) from None
