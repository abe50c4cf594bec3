export EVENLOAD_OPTIONS=/shared/static.toml
vllm serve deepseek-ai/DeepSeek-V3 \
  --data-parallel-size 32 --data-parallel-size-local 8 \
  --data-parallel-address $HEAD --data-parallel-rpc-port 13345 \
  --enable-expert-parallel --all2all-backend deepep_low_latency --enable-eplb \
  --eplb-config '{"num_redundant_experts": 32, "window_size": 100, "step_interval": 100}'
