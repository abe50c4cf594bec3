vllm serve deepseek-ai/DeepSeek-V3 \
  --tensor-parallel-size 16 --enable-expert-parallel \
  --additional-config '{"eplb_config": {"expert_map_path": "expert_map.json"}}'
