"""How families of models name what belongs to experts, and which of their layers have any.

A model is added by a line of `FAMILIES`, a quantisation by a line of `QUANTISATIONS`. Names were
read off the checkpoints that transformers 5.19 writes, and off the weights that vLLM 0.33.0 loads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from evenload.checks import divisor, printable, whole_number
from evenload.io.base import MOST_EXPERTS, MOST_LAYERS


class Family(NamedTuple):
    """Names inside a layer of a model."""

    block: str  # the module with the experts
    router: tuple[str, ...]  # its tensors that have a row for each expert
    single: tuple[str, ...] = ()  # modules of an expert, where each is tensors of its own
    fused: tuple[str, ...] = ()  # tensors of all experts together, the first axis
    shared: tuple[str, ...] = ()  # modules that every token passes


_GATED = ("gate_proj", "up_proj", "down_proj")
_DEEPSEEK = Family(
    "mlp", ("gate.weight", "gate.e_score_correction_bias"), _GATED, shared=("shared_experts",)
)
_QWEN = Family("mlp", ("gate.weight",), _GATED, shared=("shared_expert", "shared_expert_gate"))
_MIXTRAL = Family("block_sparse_moe", ("gate.weight",), ("w1", "w2", "w3"))
_GPT_OSS = Family("mlp", ("router.weight", "router.bias"), fused=("gate_up_proj", "down_proj"))

FAMILIES: dict[str, Family] = {  # by the model_type of config.json
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "kimi_k2": _DEEPSEEK,
    "glm4_moe": _DEEPSEEK,
    "qwen2_moe": _QWEN,
    "qwen3_moe": _QWEN,
    "olmoe": _QWEN,
    "mixtral": _MIXTRAL,
    "gpt_oss": _GPT_OSS,
}

# What follows the name of an expert's module: patterns.
QUANTISATIONS: dict[str, tuple[str, ...]] = {
    "none": ("weight", "bias"),
    "fp8, int8": ("weight_scale_inv", "weight_scale", "input_scale", "weight_offset"),
    "gptq, awq": ("qweight", "qzeros", "scales", "g_idx"),
    "compressed-tensors": ("weight_packed", "weight_shape", "weight_zero_point", "weight_g_idx",
                           "weight_global_scale", "input_global_scale", "input_zero_point"),
    "modelopt": ("weight_scale_2", "pre_quant_scale"),
    "bitsandbytes": (r"weight\.(nested_)?(absmax|quant_map)",
                     r"weight\.quant_state\.bitsandbytes__\w+"),
}  # fmt: skip
# What follows the name of a fused tensor.
_FUSED = ("", "_bias", "_blocks", "_scales")

_SUFFIX = "|".join(pattern for patterns in QUANTISATIONS.values() for pattern in patterns)
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.*)", re.DOTALL)
_SUSPECT = re.compile(r"expert|router|e_score")  # of experts, wherever it stands


class Role(NamedTuple):
    """What a tensor is to the experts of its layer."""

    layer: int
    rows: bool = False  # it has a row for each expert; else it is one expert's
    expert: int = -1
    before: str = ""  # the name of an expert's tensor around its number
    after: str = ""

    def renamed(self, number: int) -> str:
        """Return the name that the tensor has as that expert's."""
        return f"{self.before}{number}{self.after}"

    @property
    def kind(self) -> str:
        """The name with a star for the expert's number: as many tensors have it as experts."""
        return f"{self.before}*{self.after}"


@dataclass(frozen=True)
class Model:
    """What config.json says of a model's experts; see `model_of`."""

    model_type: str
    family: Family
    num_experts: int
    num_groups: int  #: groups that routing is limited to; 1 where it is not
    layers: tuple[int, ...]  #: numbers of the layers with experts
    drafts: tuple[int, ...]  #: numbers of those behind, that draft tokens (MTP); may be left out
    num_layers: int  #: without those that draft

    def role(self, name: str) -> Role | None:
        """Return what a tensor is; None if it has nothing to do with routed experts.

        One that may have and is not understood is a `ValueError`.
        """
        found, family = _LAYER.fullmatch(name), self.family
        if found is None or int(found[1]) not in self.layers + self.drafts:
            inside = "" if found is None else found[2]
            if _SUSPECT.search(name) or self._in_block(inside):
                raise ValueError(self._unknown(name))
            return None
        layer, rest = int(found[1]), found[2].removeprefix(f"{family.block}.")
        if rest == found[2]:
            if _SUSPECT.search(rest):
                raise ValueError(self._unknown(name))
            return None
        if rest.split(".")[0] in family.shared:
            return None
        if self._in_block(found[2]) == "rows":
            return Role(layer, rows=True)
        one = re.fullmatch(
            rf"experts\.(\d{{1,5}})(\.(?:{'|'.join(family.single)})\.(?:{_SUFFIX}))", rest
        )
        if not family.single or one is None or str(int(one[1])) != one[1]:
            raise ValueError(self._unknown(name))
        if int(one[1]) >= self.num_experts:
            raise ValueError(
                f"{printable(name)} is of expert {one[1]}, and config.json tells of "
                f"{self.num_experts} experts (0 to {self.num_experts - 1}); use the config.json of "
                "this checkpoint"
            )
        before = name[: len(name) - len(rest)] + "experts."
        return Role(layer, False, int(one[1]), before, one[2])

    def _in_block(self, inside: str) -> str:
        """Tell whether a name inside a layer is of routed experts: "rows", "single" or neither."""
        family = self.family
        fused = (f"experts.{name}{end}" for name in family.fused for end in _FUSED)
        if inside in {f"{family.block}.{name}" for name in (*family.router, *fused)}:
            return "rows"
        return "single" if inside.startswith(f"{family.block}.experts.") else ""

    def _unknown(self, name: str) -> str:
        return (
            f"{printable(name)} is not understood, and may belong to the experts of a "
            f"{self.model_type}; reorder a checkpoint without it, or add its name to "
            "evenload/checkpoint/families.py"
        )


def model_of(config: Any) -> Model:
    """Return what config.json says, which may be anything; a `ValueError` for what is not known."""
    if not isinstance(config, Mapping):
        raise ValueError(f"config.json holds {type(config).__name__}; use the model's object")
    if "num_hidden_layers" not in config and isinstance(config.get("text_config"), Mapping):
        config = config["text_config"]
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise ValueError(
            f"model_type {kind!r} of config.json is none whose experts' names are known; use a "
            f"checkpoint of: {', '.join(FAMILIES)}"
        )
    said = [config.get(f"{name}_experts") for name in ("n_routed", "num", "num_local")]
    number = next((value for value in said if value is not None), None)
    experts = whole_number("num_experts of config.json", number, 1, MOST_EXPERTS)
    there = whole_number(
        "num_hidden_layers of config.json", config.get("num_hidden_layers"), 1, MOST_LAYERS
    )
    groups = config.get("n_group") or 1
    divisor("n_group of config.json", groups, "num_experts", experts)
    drafts = whole_number("num_nextn_predict_layers", config.get("num_nextn_predict_layers") or 0)
    layers = tuple(i for i in range(there) if _has_experts(i, config))
    if not layers:
        raise ValueError("config.json tells of no layer with experts; use a model that has some")
    behind = range(there, there + min(drafts, MOST_LAYERS))
    return Model(str(kind), FAMILIES[kind], experts, groups, layers, tuple(behind), there)


def _has_experts(layer: int, config: Mapping[str, Any]) -> bool:
    """Whether a layer has experts: DeepSeek counts layers from 0 for its step, Qwen from 1."""
    dense = whole_number("first_k_dense_replace", config.get("first_k_dense_replace") or 0)
    every = whole_number("moe_layer_freq", config.get("moe_layer_freq") or 1, 1)
    step = whole_number("decoder_sparse_step", config.get("decoder_sparse_step") or 1, 1)
    only = config.get("mlp_only_layers") or ()
    if not isinstance(only, list | tuple):
        raise ValueError(f"mlp_only_layers of config.json is {only!r}; use a list of layers")
    if layer < dense or layer in only:
        return False
    return layer % every == 0 and (layer + 1) % step == 0
