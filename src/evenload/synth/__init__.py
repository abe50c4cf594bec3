"""Synthetic loads and traces: seeded, in whole tokens, NumPy only.

Every function takes `seed` (a whole number >= 0) and gives the same bytes for the same arguments,
as far as NumPy keeps the streams of its `Generator` with PCG64 and the last bit of its `exp`, `log`
and `power` (a change there can move single tokens). `tokens` is what one layer routes in one
window, a token counted once for each expert it goes to (tokens x top-k): every layer of every
window sums to exactly `tokens`.
"""

from evenload.synth.loads import lognormal_load, synthetic_load, zipf_load
from evenload.synth.trace import synthetic_trace

__all__ = ["lognormal_load", "synthetic_load", "synthetic_trace", "zipf_load"]
