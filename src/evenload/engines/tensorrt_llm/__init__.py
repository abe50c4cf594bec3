"""TensorRT-LLM: its files."""
