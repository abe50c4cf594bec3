"""Machines that experts are served on, and the experts of well-known models, by name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hardware:
    """One GPU of a kind of machine and its links; each bandwidth in one direction.

    Parameters
    ----------
    flops_16, flops_8 : float
        Peak dense operations per second with 16-bit and 8-bit weights.
    bandwidth_in_node, bandwidth_between_nodes : float
        Bytes per second that a GPU sends to another one in its node, and in another node.
    """

    flops_16: float
    flops_8: float
    bandwidth_in_node: float
    bandwidth_between_nodes: float

    def flops(self, dtype: str) -> float:
        """Operations per second with weights of a type; 4-bit ones are widened to 16 bits first."""
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

# Bytes of a weight, scales of a block of weights left out where they are less than 0.1 %.
WEIGHT_BYTES = {"bf16": 2.0, "fp8": 1.0, "mxfp4": 4.25 / 8}  # OCP MX: 8 scale bits for 32 weights

# Gate, up and down projection.
MATRICES = 3


@dataclass(frozen=True)
class Experts:
    """The experts of a model as it is published.

    Parameters
    ----------
    hidden_size, intermediate_size : int
        Sides of an expert's matrices.
    dtype : {"bf16", "fp8", "mxfp4"}
        Of the published weights.
    num_layers : int
        Layers with experts.
    num_experts : int
        Routed experts of such a layer.
    """

    hidden_size: int
    intermediate_size: int
    dtype: str
    num_layers: int
    num_experts: int

    @property
    def weights(self) -> int:
        """Weights of one expert."""
        return MATRICES * self.hidden_size * self.intermediate_size

    @property
    def num_bytes(self) -> float:
        """Bytes of one expert."""
        return self.weights * WEIGHT_BYTES[self.dtype]

    @property
    def flops(self) -> float:
        """Floating point operations of one token in one expert: a product and a sum a weight."""
        return 2.0 * self.weights


# From the config.json that each model is published with on Hugging Face; the size of its experts is
# hidden_size x moe_intermediate_size (intermediate_size for gpt-oss and Mixtral).
MODELS = {
    "deepseek-v3": Experts(7168, 2048, "fp8", 58, 256),  # deepseek-ai/DeepSeek-V3
    "deepseek-r1": Experts(7168, 2048, "fp8", 58, 256),  # deepseek-ai/DeepSeek-R1
    "deepseek-v2-lite": Experts(2048, 1408, "bf16", 26, 64),  # deepseek-ai/DeepSeek-V2-Lite
    "qwen3-235b-a22b": Experts(4096, 1536, "bf16", 94, 128),  # Qwen/Qwen3-235B-A22B
    "qwen3-30b-a3b": Experts(2048, 768, "bf16", 48, 128),  # Qwen/Qwen3-30B-A3B
    "gpt-oss-20b": Experts(2880, 2880, "mxfp4", 24, 32),  # openai/gpt-oss-20b
    "gpt-oss-120b": Experts(2880, 2880, "mxfp4", 36, 128),  # openai/gpt-oss-120b
    "kimi-k2": Experts(7168, 2048, "fp8", 60, 384),  # moonshotai/Kimi-K2-Instruct
    "glm-4.5": Experts(5120, 1536, "bf16", 89, 160),  # zai-org/GLM-4.5
    "mixtral-8x7b": Experts(4096, 14336, "bf16", 32, 8),  # mistralai/Mixtral-8x7B-v0.1
    "mixtral-8x22b": Experts(6144, 16384, "bf16", 56, 8),  # mistralai/Mixtral-8x22B-v0.1
}


def hardware_names() -> list[str]:
    """Return the machines that `CostModel.preset` knows."""
    return list(HARDWARE)


def model_names() -> list[str]:
    """Return the models that `CostModel.preset` knows."""
    return list(MODELS)
