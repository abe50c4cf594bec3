"""Arrays in, arrays out: one operation a file, plain loops under Numba.

Axis letters: L layers, E experts, S slots, G GPUs, K slots per GPU, X replicas or rows.
"""
