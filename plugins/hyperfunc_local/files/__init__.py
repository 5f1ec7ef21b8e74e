"""Model files: safetensors directories and GGUF files, read from paths only."""
