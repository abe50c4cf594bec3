"""vllm-ascend: its files, and what runs inside it."""
