"""The best placement there is, proven: replica counts and places by constraint programming.

``search`` takes a problem and returns a placement with its proof, ``layer`` is one layer of it on
the living GPUs. With two slots on each of equal GPUs, ``pairs`` searches over replica counts alone:
``counts`` models them, ``pairing`` says which replicas share a GPU. ``shares`` models everything
else. ``cpsat`` runs OR-tools' CP-SAT so that the same input gives the same answer, and ``effort``
is how much of that.
"""

from evenload.solvers.exact.search import Solution, exact, solve_exactly

__all__ = ["Solution", "exact", "solve_exactly"]
