export EVENLOAD_VLLM=1 EVENLOAD_PLACEMENT=placement.json
vllm serve Qwen/Qwen3-30B-A3B \
  --tensor-parallel-size 8 --enable-expert-parallel --enable-eplb \
  --eplb-config \
  '{"num_redundant_experts": 16, "window_size": 100, "step_interval": 100}'
