export EXPERT_STATISTIC_PATH=./expert_statistic
export EXPERT_STATISTIC_ITER_RANGE=100-200
trtllm-eval --model deepseek-ai/DeepSeek-R1 --tp_size 32 --ep_size 32 gsm8k
