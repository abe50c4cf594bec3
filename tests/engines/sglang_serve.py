"""Serve a tiny model of random weights by SGLang's own engine on a CPU: MODEL, a folder.

Prints, as JSON, the answers to the same prompts as often as `ROUNDS` says, token by token, and
first what transformers answers. SGLang starts its processes by importing this file, so what is
changed at its top is changed in all of them. Three things that a CPU lacks are put in place; all
else is SGLang's:

* ``sgl_kernel``, which it imports and, without Intel's AMX, does not call;
* ``torch.cpu.empty_cache``, which the recorder of loads calls;
* experts of other ranks (-1) in its MoE layer of plain PyTorch, which knows no expert parallelism:
  they get the weight 0, as in its kernels.
"""

import json
import os
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

os.environ["SGLANG_USE_CPU_ENGINE"] = "1"
os.environ["SGLANG_CPU_OMP_THREADS_BIND"] = "|".join(map(str, sorted(os.sched_getaffinity(0))[:2]))
sys.path.insert(0, str(Path(__file__).with_name("stubs")))

import torch

RANKS, REDUNDANT, ROUNDS, PROMPTS, NEW = 2, 4, 3, 4, 12


def absent(name):
    """Stand for a kernel, which nothing may call."""
    if name.startswith("__"):
        raise AttributeError(name)

    def call(*_, **__):
        raise NotImplementedError(f"sgl_kernel.{name}")

    return call


def only_local_experts(layer, x, topk_output, _):
    """Compute the experts that are here."""
    weights, experts, logits = topk_output
    here = (weights * (experts >= 0), experts.clamp(min=0).long(), logits)
    given = SimpleNamespace(hidden_states=x, topk_output=here)
    return native.fused_moe_forward_native(layer, given).hidden_states


kernels = ModuleType("sgl_kernel")
kernels.__spec__, kernels.__path__ = ModuleSpec("sgl_kernel", None), []
kernels.__getattr__ = absent
sys.modules["sgl_kernel"] = kernels
torch.cpu.empty_cache = lambda: None
torch.cpu._is_amx_tile_supported = lambda: False

native = import_module("sglang.srt.layers.moe.fused_moe_native")
native.moe_forward_native = only_local_experts


def make(folder):
    """Save a model of two layers of eight experts; return prompts, and its greedy answers."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, moe_intermediate_size=32,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, head_dim=16,
        num_experts=8, num_experts_per_tok=2, decoder_sparse_step=1, max_position_embeddings=512,
        norm_topk_prob=True, tie_word_embeddings=False, initializer_range=0.2, eos_token_id=None,
    )  # fmt: skip
    model = Qwen3MoeForCausalLM(config).float().eval()
    model.save_pretrained(folder)
    prompts = torch.randint(0, 512, (PROMPTS, 12))
    mask = torch.ones_like(prompts)
    said = model.generate(
        prompts, attention_mask=mask, max_new_tokens=NEW, do_sample=False, pad_token_id=0
    )
    return prompts.tolist(), said[:, prompts.shape[1] :].tolist()


def main(folder):
    """Serve, and print the answers."""
    from sglang.srt.entrypoints.engine import Engine

    prompts, expected = make(folder)
    engine = Engine(
        model_path=folder, skip_tokenizer_init=True, device="cpu", dtype="float32",
        attention_backend="torch_native", tp_size=RANKS, ep_size=RANKS, enable_eplb=True,
        eplb_algorithm="evenload", ep_num_redundant_experts=REDUNDANT,
        eplb_rebalance_num_iterations=NEW // 2, expert_distribution_recorder_buffer_size=NEW // 2,
        max_total_tokens=1024, max_running_requests=8, random_seed=0, disable_radix_cache=True,
        disable_overlap_schedule=True, disable_cuda_graph=True, skip_server_warmup=True,
        log_level="info",
    )  # fmt: skip
    greedy = {"temperature": 0, "max_new_tokens": NEW, "ignore_eos": True}
    answers = [expected]
    for _ in range(ROUNDS):
        said = engine.generate(input_ids=prompts, sampling_params=greedy)
        answers.append([answer["output_ids"] for answer in said])
    sys.stdout.write(f"\nANSWERS {json.dumps(answers)}\n")
    sys.stdout.flush()
    engine.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
