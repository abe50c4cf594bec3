"""Packages of extras, imported when something needs them."""

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
    """Import a module of a `package` that an `extra` of evenload brings, or raise `error`.

    The message says `what` needs it, and what would do `instead` of that.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError:
        other = f", or {instead}" if instead else ""
        raise error(
            f"{what} needs {package}, which is not installed; use pip install "
            f"'evenload[{extra}]'{other}"
        ) from None
