export EVENLOAD_VLLM=1
vllm serve Qwen/Qwen3-30B-A3B \
  --tensor-parallel-size 8 --enable-expert-parallel --enable-eplb \
  --eplb-config \
  '{"num_redundant_experts": 16, "window_size": 1000, "step_interval": 3000}'
