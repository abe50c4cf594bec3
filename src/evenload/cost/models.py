"""The experts of well-known models: their sizes, and what follows from these."""

from __future__ import annotations

from dataclasses import dataclass

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


def model_names() -> list[str]:
    """Return the models that `CostModel.preset` knows."""
    return list(MODELS)


def get_model(name: str) -> Experts:
    """Return a model by name.

    Raises
    ------
    ValueError
        If there is none of that name; the message lists those that are.
    """
    if name not in MODELS:
        raise ValueError(f"model={name!r} is unknown; use one of: {', '.join(MODELS)}")
    return MODELS[name]
