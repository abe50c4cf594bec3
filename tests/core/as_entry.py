"""Kernels that only kernels call, made callable from Python."""

from functools import cache

from evenload.core.compile import Entry


@cache
def as_entry(kernel):
    return Entry(kernel.py_func, kernel.arguments)
