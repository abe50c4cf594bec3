"""A reordered checkpoint computes what the first one did: tiny models of each family, on the CPU.

The weights are random, float32. Experts add up a token's output in the order of their numbers, so
that logits differ by rounding: 1e-5 of the largest one is allowed. Routing and generated tokens are
the same. Quantised checkpoints were never run; `tests/checkpoint` looks at their tensors.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from evenload.checkpoint import (
    ExpertOrder,
    open_checkpoint,
    order_of_placement,
    plan_order,
    read_order,
    reorder_checkpoint,
    undo_order,
)
from evenload.io import PlacementFile
from evenload.layers import ModelLayers

TOLERANCE = 1e-5
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
    "num_key_value_heads": 4, "max_position_embeddings": 64, "num_experts_per_tok": 2,
    "num_hidden_layers": 4, "eos_token_id": None, "bos_token_id": None, "pad_token_id": 0,
}  # fmt: skip
LATENT = {
    "num_experts_per_tok": 4,  # so that limits to 2 of 4 groups matter
    "moe_intermediate_size": 16, "n_routed_experts": 16, "n_shared_experts": 1, "n_group": 4,
    "topk_group": 2, "first_k_dense_replace": 1, "kv_lora_rank": 8, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 8,
}  # fmt: skip
MODELS = {
    "deepseek_v2": ("DeepseekV2Config", LATENT | {"topk_method": "group_limited_greedy"}),
    "deepseek_v2, any group": ("DeepseekV2Config", LATENT | {"n_group": 1, "topk_group": 1}),
    "deepseek_v3": ("DeepseekV3Config", LATENT | {"q_lora_rank": 8}),
    "glm4_moe": ("Glm4MoeConfig", {"moe_intermediate_size": 16, "n_routed_experts": 16,
                                   "n_shared_experts": 1, "first_k_dense_replace": 1}),
    "qwen2_moe": ("Qwen2MoeConfig", {"moe_intermediate_size": 16, "num_experts": 16,
                                     "shared_expert_intermediate_size": 16,
                                     "decoder_sparse_step": 2}),
    "qwen3_moe": ("Qwen3MoeConfig", {"moe_intermediate_size": 16, "num_experts": 16,
                                     "mlp_only_layers": [1]}),
    "olmoe": ("OlmoeConfig", {"num_experts": 16}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 16}),
    "gpt_oss": ("GptOssConfig", {"num_local_experts": 16, "head_dim": 8}),
}  # fmt: skip
TOKENS = torch.tensor(np.random.default_rng(1).integers(1, 64, (4, 24)))


@pytest.fixture(autouse=True)
def _one_thread():
    """Let tiny products not wait for threads that other programs hold up."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=MODELS)
def saved(request, tmp_path_factory):
    """Return the folder of a random model in several shards."""
    name, config = MODELS[request.param]
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(getattr(transformers, name)(**SIZES | config))
    biases = [b for name, b in model.named_buffers() if name.endswith("e_score_correction_bias")]
    with torch.no_grad():
        for tensor in (*model.parameters(), *biases):
            tensor.add_(torch.randn_like(tensor), alpha=0.1)
    folder = tmp_path_factory.mktemp("models") / request.param.replace(", ", "_")
    model.save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


def computed(folder):
    """Return the logits, each layer's experts of each token, and what is generated."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    routed = []

    def keep(_module, args, kwargs):
        routed.append([*args, *kwargs.values()][1].reshape(TOKENS.numel(), -1).sort(-1)[0])

    hooks = [
        module.register_forward_pre_hook(keep, with_kwargs=True)
        for name, module in model.named_modules()
        if name.endswith(".experts")
    ]
    assert hooks
    with torch.no_grad():
        logits = model(TOKENS).logits
    for hook in hooks:
        hook.remove()
    written = model.generate(TOKENS, max_new_tokens=16, do_sample=False)
    return logits, torch.stack(routed).numpy(), written


def check(first, second, experts):
    """Compare two models; `experts` [L, E] is the first one's expert in each place."""
    largest = first[0].abs().max()
    assert (first[0] - second[0]).abs().max() <= TOLERANCE * largest
    back = np.stack([row[layer] for row, layer in zip(experts, second[1], strict=True)])
    np.testing.assert_array_equal(np.sort(back), first[1])
    assert torch.equal(first[2], second[2])


def random_order(checkpoint, seed):
    """Return any order that keeps groups together."""
    random, model = np.random.default_rng(seed), checkpoint.model
    rows = []
    for _ in checkpoint.layers:
        table = np.arange(model.num_experts).reshape(model.num_groups, -1)
        table = table[random.permutation(model.num_groups)]
        rows.append(np.concatenate([random.permutation(row) for row in table]))
    return ExpertOrder(np.array(rows), ModelLayers(checkpoint.layers))


def test_any_order_computes_the_same(saved, tmp_path):
    checkpoint, before = open_checkpoint(saved), computed(saved)
    for seed in range(3):
        order = random_order(checkpoint, seed)
        new = tmp_path / f"new{seed}"
        reorder_checkpoint(checkpoint, order, new)
        check(before, computed(new), order.experts)
        undo_order(open_checkpoint(new), tmp_path / f"back{seed}")
        for path in saved.iterdir():
            assert (tmp_path / f"back{seed}" / path.name).read_bytes() == path.read_bytes()


def test_an_order_for_the_loads_that_a_model_has(saved, tmp_path):
    checkpoint, before = open_checkpoint(saved), computed(saved)
    E = checkpoint.model.num_experts
    load = np.stack([np.bincount(layer.ravel(), minlength=E) for layer in before[1]])
    placement = plan_order(load, 8, num_groups=checkpoint.model.num_groups)
    order = order_of_placement(PlacementFile(placement), checkpoint)
    reorder_checkpoint(checkpoint, order, tmp_path / "new")
    after = computed(tmp_path / "new")
    check(before, after, order.experts)
    found = np.stack([np.bincount(layer.ravel(), minlength=E) for layer in after[1]])
    layers = ModelLayers(checkpoint.layers)
    kept = read_order(tmp_path / "new")
    np.testing.assert_array_equal(kept.renumbered(load, layers), found)
    np.testing.assert_array_equal(kept.inverse.renumbered(found, layers), load)
    in_order = found.reshape(len(found), 8, -1).sum(-1).max(-1)
    assert (in_order <= load.reshape(len(load), 8, -1).sum(-1).max(-1)).all()


def test_a_wrong_order_would_be_seen(saved, tmp_path):
    """Groups that are split route tokens elsewhere; without groups every order is right."""
    checkpoint, before = open_checkpoint(saved), computed(saved)
    E = checkpoint.model.num_experts
    experts = np.tile(np.arange(E).reshape(4, -1).T.ravel(), (len(checkpoint.layers), 1))
    order = ExpertOrder(experts, ModelLayers(checkpoint.layers))
    reorder_checkpoint(checkpoint, order, tmp_path / "new")
    same = torch.allclose(before[0], computed(tmp_path / "new")[0], atol=1e-3)
    assert same == (checkpoint.model.num_groups == 1)
