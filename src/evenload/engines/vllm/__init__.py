"""vLLM: its files, and what runs inside it."""
