"""Answer some prompts, and keep which experts each token was routed to."""

import numpy as np
from vllm import LLM, SamplingParams

# Your traffic goes here.
PROMPTS = ["What is a load balancer?", "Write a haiku about straggling GPUs."]

llm = LLM(
    "Qwen/Qwen3-30B-A3B",
    tensor_parallel_size=8,
    enable_expert_parallel=True,
    enable_return_routed_experts=True,
)
requests = llm.generate(PROMPTS, SamplingParams(max_tokens=512))
routed = {r.request_id: r.outputs[0].routed_experts for r in requests}
np.savez("routed.npz", **routed, prompt_tokens=[len(r.prompt_token_ids) for r in requests])
