"""Stands in for torchvision, whose wheels are CUDA builds that a CPU build of torch cannot load.

SGLang's configurations import names of it, which are never called here: every submodule exists, and
every name in it is an empty class, whose every attribute is one again.
"""

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__version__ = "0.0"


class Named(type):
    """A class whose every attribute is a class too."""

    def __getattr__(cls, name: str) -> type:
        return __getattr__(name)


def __getattr__(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return Named(name, (), {})


class Submodules(MetaPathFinder, Loader):
    """Finds ``torchvision.anything``, as an empty package."""

    def find_spec(self, fullname: str, path: object = None, target: object = None):
        if fullname.startswith("torchvision."):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def exec_module(self, module: ModuleType) -> None:
        module.__getattr__ = __getattr__


sys.meta_path.append(Submodules())
