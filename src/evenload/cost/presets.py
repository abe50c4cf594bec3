"""Machines and models with their numbers, and where these come from."""

from __future__ import annotations

from typing import NamedTuple

from evenload.checks import one_of

# Part of a chip's most operations that its experts' matrix products reach. Our assumption: large
# decode batches and prefill come near it; small batches wait for memory, see `ExpertTime`.
UTILISATION = 0.5
# Part of a memory's most bytes per second at which weights are read. Our assumption.
READING = 0.8


class Hardware(NamedTuple):
    """One GPU: peak dense operations per second with weights of 16 (and 4) and of 8 bits.

    And bytes per second: of its memory, to another GPU in its node, and to one in another node; and
    bytes of its memory.
    """

    flops_16: float
    flops_8: float
    memory_bandwidth: float
    bandwidth_in_node: float
    bandwidth_between_nodes: float
    memory: float

    def flops(self, dtype: str) -> float:
        """Operations per second with weights of this type."""
        return self.flops_8 if dtype == "fp8" else self.flops_16


HARDWARE = {
    # NVIDIA H100 SXM data sheet: 989 TFLOPS bf16, 1,979 fp8 without sparsity; 80 GB of memory at
    # 3.35 TB/s; NVLink 900 GB/s, both directions together. One ConnectX-7 InfiniBand card of
    # 400 Gb/s per GPU (DGX H100).
    "h100-ib": Hardware(989e12, 1979e12, 3.35e12, 450e9, 50e9, 80e9),
    # NVIDIA H200 data sheet: the same chip and links with more memory, 141 GB at 4.8 TB/s.
    "h200-ib": Hardware(989e12, 1979e12, 4.8e12, 450e9, 50e9, 141e9),
    # The H800 of DeepSeek's reports: NVLink cut to 400 GB/s both ways, of which DeepEP's page
    # counts 160 GB/s as reachable; 50 GB/s InfiniBand. The memory of an H100, 80 GB.
    "h800-ib": Hardware(989e12, 1979e12, 3.35e12, 160e9, 50e9, 80e9),
    # Huawei's CloudMatrix384 (arXiv 2506.12708): an Ascend 910C does 752 TFLOPS in bf16 and twice
    # that in int8, and has 392 GB/s of unified bus and 400 Gb/s of RDMA. A node is what the bus
    # joins, up to the whole supernode. Eight memory stacks, 128 GB and 3.2 TB/s together.
    "ascend-910c": Hardware(752e12, 1504e12, 3.2e12, 392e9, 50e9, 128e9),
    # Atlas 800T A2: an Ascend 910B does 376 TFLOPS, half a 910C; HCCS joins 8 by 7 links of 56 GB/s
    # both ways each, of which one serves a pair: 28 GB/s. 200 Gb/s RoCE a chip. 64 GB of memory at
    # 1.6 TB/s, again half a 910C.
    "ascend-910b": Hardware(376e12, 752e12, 1.6e12, 28e9, 25e9, 64e9),
    # NVIDIA L40S data sheet: 362 TFLOPS bf16, 733 fp8 without sparsity; 48 GB of memory at
    # 864 GB/s; PCIe 4.0 x16, 32 GB/s one way and no NVLink. 100 Gb/s Ethernet a GPU is our
    # assumption.
    "l40s-pcie": Hardware(362e12, 733e12, 864e9, 32e9, 12.5e9, 48e9),
    # NVIDIA H100 PCIe product brief: 756 TFLOPS bf16, 1,513 fp8; 80 GB of memory at 2.0 TB/s;
    # PCIe 5.0 x16, 64 GB/s one way, without NVLink bridges. 200 Gb/s per GPU is our assumption.
    "h100-pcie": Hardware(756e12, 1513e12, 2.0e12, 64e9, 25e9, 80e9),
}

# Bytes of a weight, scales of a block of weights left out where they are less than 0.1 %.
WEIGHT_BYTES = {"bf16": 2.0, "fp8": 1.0, "mxfp4": 4.25 / 8}  # OCP MX: 8 scale bits for 32 weights
MATRICES = 3  # gate, up and down projection
FLOPS_A_WEIGHT = 2.0  # and per token: a product and a sum


class Experts(NamedTuple):
    """The experts of a model as published: sides of their matrices, layers that have any."""

    hidden_size: int
    intermediate_size: int
    dtype: str
    num_layers: int
    num_experts: int
    top_k: int  # experts that a token goes to

    @property
    def weights(self) -> int:
        """Weights of one expert."""
        return MATRICES * self.hidden_size * self.intermediate_size

    @property
    def num_bytes(self) -> float:
        """Bytes of one expert."""
        return self.weights * WEIGHT_BYTES[self.dtype]

    @property
    def operations(self) -> float:
        """Operations of one expert for one token."""
        return FLOPS_A_WEIGHT * self.weights


# From the config.json that each model is published with on Hugging Face; the size of its experts is
# hidden_size x moe_intermediate_size (intermediate_size for gpt-oss and Mixtral), and a token goes
# to num_experts_per_tok of them.
MODELS = {
    "deepseek-v3": Experts(7168, 2048, "fp8", 58, 256, 8),  # deepseek-ai/DeepSeek-V3
    "deepseek-r1": Experts(7168, 2048, "fp8", 58, 256, 8),  # deepseek-ai/DeepSeek-R1
    "deepseek-v2-lite": Experts(2048, 1408, "bf16", 26, 64, 6),  # deepseek-ai/DeepSeek-V2-Lite
    "qwen3-235b-a22b": Experts(4096, 1536, "bf16", 94, 128, 8),  # Qwen/Qwen3-235B-A22B
    "qwen3-30b-a3b": Experts(2048, 768, "bf16", 48, 128, 8),  # Qwen/Qwen3-30B-A3B
    "gpt-oss-20b": Experts(2880, 2880, "mxfp4", 24, 32, 4),  # openai/gpt-oss-20b
    "gpt-oss-120b": Experts(2880, 2880, "mxfp4", 36, 128, 4),  # openai/gpt-oss-120b
    "kimi-k2": Experts(7168, 2048, "fp8", 60, 384, 8),  # moonshotai/Kimi-K2-Instruct
    "glm-4.5": Experts(5120, 1536, "bf16", 89, 160, 8),  # zai-org/GLM-4.5
    "olmoe-1b-7b": Experts(2048, 1024, "bf16", 16, 64, 8),  # allenai/OLMoE-1B-7B-0924
    "mixtral-8x7b": Experts(4096, 14336, "bf16", 32, 8, 2),  # mistralai/Mixtral-8x7B-v0.1
    "mixtral-8x22b": Experts(6144, 16384, "bf16", 56, 8, 2),  # mistralai/Mixtral-8x22B-v0.1
}

# Numbers that the attention of all layers keeps of each token, from the same files: the layers'
# num_hidden_layers, dense ones included, times 2 x num_key_value_heads x head_dim; with multi-head
# latent attention kv_lora_rank + qk_rope_head_dim, 512 + 64. Every second layer of gpt-oss keeps
# the last 128 tokens only and is left out.
KV_NUMBERS = {
    "deepseek-v3": 61 * 576,
    "deepseek-r1": 61 * 576,
    "deepseek-v2-lite": 27 * 576,
    "qwen3-235b-a22b": 94 * 2 * 4 * 128,
    "qwen3-30b-a3b": 48 * 2 * 4 * 128,
    "gpt-oss-20b": 24 // 2 * 2 * 8 * 64,
    "gpt-oss-120b": 36 // 2 * 2 * 8 * 64,
    "kimi-k2": 61 * 576,
    "glm-4.5": 92 * 2 * 8 * 128,
    "olmoe-1b-7b": 16 * 2 * 16 * 128,
    "mixtral-8x7b": 32 * 2 * 8 * 128,
    "mixtral-8x22b": 56 * 2 * 8 * 128,
}
KV_BYTES = 2.0  # of each, where an engine is not asked for fp8


def kv_bytes_per_token(model: str) -> float:
    """Return the bytes of KV cache that a token of a model takes, on all GPUs that share it."""
    return KV_BYTES * KV_NUMBERS[one_of("model", model, MODELS)]


def hardware_names() -> list[str]:
    """Return the machines that the presets know."""
    return list(HARDWARE)


def model_names() -> list[str]:
    """Return the models that the presets know."""
    return list(MODELS)


def model_of(num_layers: int, num_experts: int) -> str:
    """Return the model of exactly that shape; `ValueError` if there is none.

    Of several with the same experts, as DeepSeek-V3 and R1, the first.
    """
    for name, experts in MODELS.items():
        if (experts.num_layers, experts.num_experts) == (num_layers, num_experts):
            return name
    raise ValueError(
        f"no model of the presets has {num_layers} layers x {num_experts} experts; use "
        f"{fitting_models(num_layers, num_experts)}"
    )


def fitting_models(num_layers: int, num_experts: int) -> str:
    """Name the models that a load of that shape may be of, for messages."""
    fits = [
        name
        for name, experts in MODELS.items()
        if experts.num_experts == num_experts and experts.num_layers >= num_layers
    ]
    numbers = "tokens_per_second and expert_bytes of your own"
    return f"{', '.join(fits)}, or {numbers}" if fits else numbers


def check_model_shape(model: str, num_layers: int, num_experts: int) -> None:
    """Raise `ValueError` if a load of that shape cannot be of that model.

    Fewer layers than the model has may have been recorded.
    """
    experts = MODELS[one_of("model", model, MODELS)]
    if experts.num_experts != num_experts or num_layers > experts.num_layers:
        raise ValueError(
            f"model={model!r} has {experts.num_layers} layers x {experts.num_experts} experts, and "
            f"the load {num_layers} x {num_experts}; use {fitting_models(num_layers, num_experts)}"
        )
