"""Compile ahead, so that the first plan of a serving engine does not wait."""

from importlib import import_module
from pkgutil import iter_modules


def warmup() -> None:
    """Compile every kernel that Python calls, and keep the code on disk.

    Where that is done already this only loads the code: a second or two. Call it where a process
    starts; the command ``evenload warmup`` does it in an image.
    """
    import evenload.core
    from evenload.core.compile import Entry

    for file in iter_modules(evenload.core.__path__):
        if file.name == "torch_packing":
            continue
        for value in vars(import_module(f"evenload.core.{file.name}")).values():
            if isinstance(value, Entry):
                value.compile()
