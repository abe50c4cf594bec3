export EVENLOAD_VLLM_ASCEND=1
vllm serve deepseek-ai/DeepSeek-V3 \
  --tensor-parallel-size 16 --enable-expert-parallel \
  --additional-config \
  '{"eplb_config": {"dynamic_eplb": true, "num_redundant_experts": 16, "eplb_policy_type": 1}}'
