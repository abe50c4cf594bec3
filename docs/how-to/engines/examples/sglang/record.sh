export SGLANG_EXPERT_DISTRIBUTION_RECORDER_DIR=recordings
python -m sglang.launch_server --model-path deepseek-ai/DeepSeek-V2-Lite \
  --tp-size 8 --ep-size 8 \
  --expert-distribution-recorder-mode stat \
  --expert-distribution-recorder-buffer-size 10000
