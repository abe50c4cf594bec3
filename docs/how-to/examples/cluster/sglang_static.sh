python -m sglang.launch_server --model-path deepseek-ai/DeepSeek-V3 \
  --nnodes 4 --node-rank $NODE --dist-init-addr $HEAD:25000 \
  --tp-size 32 --ep-size 32 --attn-dp-size 32 --moe-a2a-backend deepep \
  --ep-num-redundant-experts 32 --ep-dispatch-algorithm dynamic \
  --eplb-algorithm evenload --init-expert-location /shared/expert_distribution_recorder.pt \
  --enable-metrics --expert-balancedness-report-mode both
