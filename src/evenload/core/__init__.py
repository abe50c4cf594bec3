"""The compiled search: plain loops under Numba, arrays in, arrays out.

Axis letters: L layers, E experts, S slots, G GPUs, K slots per GPU, M samples, X replicas or rows.
"""
