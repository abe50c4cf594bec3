"""Machines that experts are served on: how fast they compute and how fast their links are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hardware:
    """One GPU of a kind of machine, and its links; each number in one direction.

    Parameters
    ----------
    flops_16, flops_8 : float
        Dense operations a second with 16 and 8 bit weights, at the most.
    bandwidth_in_node, bandwidth_between_nodes : float
        Bytes a second that a GPU sends to another of its node, and of another node.
    """

    flops_16: float
    flops_8: float
    bandwidth_in_node: float
    bandwidth_between_nodes: float

    def flops(self, dtype: str) -> float:
        """Operations a second with weights of a type; 4 bit ones are widened to 16 first."""
        return self.flops_8 if dtype == "fp8" else self.flops_16


HARDWARE = {
    # NVIDIA H100 SXM data sheet: 989 TFLOPS bf16, 1,979 fp8 without sparsity; NVLink 900 GB/s, both
    # directions together. One ConnectX-7 InfiniBand card of 400 Gb/s a GPU (DGX H100).
    "h100-ib": Hardware(989e12, 1979e12, 450e9, 50e9),
    # NVIDIA H200 data sheet: the same chip and links with more memory.
    "h200-ib": Hardware(989e12, 1979e12, 450e9, 50e9),
    # The H800 of DeepSeek's reports: NVLink cut to 400 GB/s both ways, of which DeepEP's page
    # counts 160 GB/s as reachable; 50 GB/s InfiniBand.
    "h800-ib": Hardware(989e12, 1979e12, 160e9, 50e9),
    # Huawei's CloudMatrix384 (arXiv 2506.12708): an Ascend 910C does 752 TFLOPS in bf16 and twice
    # that in int8, and has 392 GB/s of unified bus and 400 Gb/s of RDMA. A node is what the bus
    # joins, up to the whole supernode.
    "ascend-910c": Hardware(752e12, 1504e12, 392e9, 50e9),
    # Atlas 800T A2: an Ascend 910B does 376 TFLOPS, half a 910C; HCCS joins 8 by 7 links of 56 GB/s
    # both ways each, of which one serves a pair: 28 GB/s. 200 Gb/s RoCE a chip.
    "ascend-910b": Hardware(376e12, 752e12, 28e9, 25e9),
    # NVIDIA L40S data sheet: 362 TFLOPS bf16, 733 fp8 without sparsity; PCIe 4.0 x16, 32 GB/s one
    # way and no NVLink. 100 Gb/s Ethernet a GPU is our assumption.
    "l40s-pcie": Hardware(362e12, 733e12, 32e9, 12.5e9),
    # NVIDIA H100 PCIe product brief: 756 TFLOPS bf16, 1,513 fp8; PCIe 5.0 x16, 64 GB/s one way,
    # without NVLink bridges. 200 Gb/s a GPU is our assumption.
    "h100-pcie": Hardware(756e12, 1513e12, 64e9, 25e9),
}


def hardware_names() -> list[str]:
    """Return the machines that `CostModel.preset` knows."""
    return list(HARDWARE)


def get_hardware(name: str) -> Hardware:
    """Return a machine by name.

    Raises
    ------
    ValueError
        If there is none of that name; the message lists those that are.
    """
    if name not in HARDWARE:
        raise ValueError(f"hardware={name!r} is unknown; use one of: {', '.join(HARDWARE)}")
    return HARDWARE[name]
