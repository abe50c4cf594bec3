python -m sglang.launch_server --model-path deepseek-ai/DeepSeek-V2-Lite \
  --tp-size 8 --ep-size 8 \
  --ep-num-redundant-experts 8 --init-expert-location init.json
