"""Small checkpoints on disk, with the names that published ones have."""

import json

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

LAYERS, HIDDEN = 3, 8
CONFIGS = {
    "deepseek_v2": {"n_routed_experts": 8, "first_k_dense_replace": 1, "moe_layer_freq": 1,
                    "n_group": 4},
    "deepseek_v3": {"n_routed_experts": 8, "first_k_dense_replace": 1, "n_group": 4,
                    "num_nextn_predict_layers": 1},
    "glm4_moe": {"n_routed_experts": 8, "first_k_dense_replace": 1, "n_group": 1},
    "qwen2_moe": {"num_experts": 8, "decoder_sparse_step": 2, "mlp_only_layers": []},
    "qwen3_moe": {"num_experts": 8, "decoder_sparse_step": 1, "mlp_only_layers": [1]},
    "olmoe": {"num_experts": 8},
    "mixtral": {"num_local_experts": 8},
    "gpt_oss": {"num_local_experts": 8},
}  # fmt: skip
MOE = {"deepseek_v2": [1, 2], "deepseek_v3": [1, 2, 3], "glm4_moe": [1, 2], "qwen2_moe": [1],
       "qwen3_moe": [0, 2]}  # fmt: skip
"""Layers with experts, where those are not all."""

# The tensors of a linear module: suffix, type, shape. Names as in published checkpoints.
QUANTISED = {
    "bf16": [("weight", "u2", (4, 8))],
    "fp8 blocks": [("weight", "u1", (4, 8)), ("weight_scale_inv", "f4", (1, 1))],  # DeepSeek-V3
    "fp8": [("weight", "u1", (4, 8)), ("weight_scale", "f4", (1,)), ("input_scale", "f4", (1,))],
    "awq": [("qweight", "i4", (8, 1)), ("qzeros", "i4", (2, 1)), ("scales", "f2", (2, 4))],
    "gptq": [("qweight", "i4", (1, 4)), ("qzeros", "i4", (2, 1)), ("scales", "f2", (2, 4)),
             ("g_idx", "i4", (8,)), ("bias", "f2", (4,))],
    "compressed-tensors w4a16": [("weight_packed", "i4", (4, 1)), ("weight_scale", "u2", (4, 1)),
                                 ("weight_shape", "i8", (2,)), ("weight_zero_point", "i4", (1, 1)),
                                 ("weight_g_idx", "i4", (8,))],
    "compressed-tensors nvfp4": [("weight_packed", "u1", (4, 4)), ("weight_scale", "u1", (4, 1)),
                                 ("weight_global_scale", "f4", (1,)),
                                 ("input_global_scale", "f4", (1,))],
    "modelopt nvfp4": [("weight", "u1", (4, 4)), ("weight_scale", "u1", (4, 1)),
                       ("weight_scale_2", "f4", ()), ("input_scale", "f4", ())],
    "bitsandbytes nf4": [("weight", "u1", (16, 1)), ("weight.absmax", "u1", (1,)),
                         ("weight.quant_map", "f4", (16,)), ("weight.nested_absmax", "f4", (1,)),
                         ("weight.nested_quant_map", "f4", (256,)),
                         ("weight.quant_state.bitsandbytes__nf4", "u1", (9,))],
}  # fmt: skip
FUSED = {
    "bf16": [("gate_up_proj", "u2", (8, 12)), ("gate_up_proj_bias", "u2", (12,)),
             ("down_proj", "u2", (6, 8)), ("down_proj_bias", "u2", (8,))],
    "mxfp4": [("gate_up_proj_blocks", "u1", (12, 1, 16)), ("gate_up_proj_scales", "u1", (12, 1)),
              ("gate_up_proj_bias", "u2", (12,)), ("down_proj_blocks", "u1", (8, 1, 16)),
              ("down_proj_scales", "u1", (8, 1)), ("down_proj_bias", "u2", (8,))],
}  # fmt: skip


def moe_layers(kind):
    """Return the layers with experts, the draft's behind."""
    return MOE.get(kind, list(range(LAYERS)))


def tensors_of(kind, quantised="bf16", seed=0, experts=8):
    """Return random tensors of a model by name: bytes are all that counts."""
    random, E = np.random.default_rng(seed), experts
    found = {}

    def add(name, dtype, shape):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        found[name] = np.frombuffer(random.bytes(size), dtype).reshape(shape)

    def linear(module, kinds):
        for suffix, dtype, shape in kinds:
            add(f"{module}.{suffix}", dtype, shape)

    add("model.embed_tokens.weight", "u2", (16, HIDDEN))
    block = "block_sparse_moe" if kind == "mixtral" else "mlp"
    single = ("w1", "w2", "w3") if kind == "mixtral" else ("gate_proj", "up_proj", "down_proj")
    for layer in range(max(LAYERS, moe_layers(kind)[-1] + 1)):
        at = f"model.layers.{layer}"
        linear(f"{at}.self_attn.q_proj", QUANTISED["bf16"])
        if layer >= LAYERS:
            add(f"{at}.eh_proj.weight", "u2", (4, 4))
        if layer not in moe_layers(kind):
            for name in single:
                linear(f"{at}.{block}.{name}", QUANTISED["bf16"])
            continue
        router = "router" if kind == "gpt_oss" else "gate"
        add(f"{at}.{block}.{router}.weight", "u2", (E, HIDDEN))
        if kind == "gpt_oss":
            add(f"{at}.{block}.router.bias", "u2", (E,))
            for name, dtype, shape in FUSED[quantised]:
                add(f"{at}.{block}.experts.{name}", dtype, (E, *shape))
            continue
        if kind in ("deepseek_v3", "glm4_moe"):
            add(f"{at}.mlp.gate.e_score_correction_bias", "f4", (E,))
        if kind in ("deepseek_v2", "deepseek_v3", "glm4_moe"):
            linear(f"{at}.mlp.shared_experts.up_proj", QUANTISED[quantised])
        if kind == "qwen2_moe":
            linear(f"{at}.mlp.shared_expert.up_proj", QUANTISED[quantised])
            add(f"{at}.mlp.shared_expert_gate.weight", "u2", (1, HIDDEN))
        for expert in range(E):
            for name in single:
                linear(f"{at}.{block}.experts.{expert}.{name}", QUANTISED[quantised])
    add("lm_head.weight", "u2", (16, HIDDEN))
    return found


def save(folder, kind, tensors, shards=3, **config):
    """Write a checkpoint; its tensors are dealt out to the shards in runs, and so cut layers."""
    folder.mkdir()
    about = {"model_type": kind, "num_hidden_layers": LAYERS} | CONFIGS[kind] | config
    (folder / "config.json").write_text(json.dumps(about, indent=2))
    (folder / "tokenizer.json").write_text("{}")
    names = list(tensors)
    parts = np.array_split(np.array(names), shards)
    files = {f"model-{i:05}-of-{shards:05}.safetensors": part for i, part in enumerate(parts, 1)}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
    where = {str(name): file for file, part in files.items() for name in part}
    index = {"metadata": {"total_size": 1}, "weight_map": dict(sorted(where.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return folder


def make(folder, kind, quantised="bf16", shards=3, **config):
    """Write a random checkpoint."""
    return save(folder, kind, tensors_of(kind, quantised), shards, **config)


def load(folder):
    """Read all tensors by the library, by name."""
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "np") as held:
            found |= {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
    return found


def content(folder):
    """Return the bytes of all files by name."""
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def random_order(kind, seed, layers=None):
    """Return random experts [L, E] that keep the groups together."""
    random, config = np.random.default_rng(seed), CONFIGS[kind]
    groups, E = config.get("n_group", 1), 8
    rows = []
    for _ in layers or moe_layers(kind):
        table = np.arange(E).reshape(groups, -1)[random.permutation(groups)]
        rows.append(np.concatenate([random.permutation(row) for row in table]))
    return np.array(rows)


def permuted(tensors, kind, experts):
    """Say again, slowly, what reordering does: place s of a layer holds expert ``experts[s]``."""
    rows = dict(zip(moe_layers(kind), experts.tolist(), strict=True))
    found = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        layer = int(parts[2]) if parts[1] == "layers" else -1
        if layer in rows and ("gate" in parts or "router" in parts):
            tensor = np.stack([tensor[expert] for expert in rows[layer]])
        elif layer in rows and "experts" in parts:
            number = parts[parts.index("experts") + 1]
            if number.isdigit():
                parts[parts.index("experts") + 1] = str(rows[layer].index(int(number)))
                name = ".".join(parts)
            else:
                tensor = np.stack([tensor[expert] for expert in rows[layer]])
        found[name] = tensor
    return found
