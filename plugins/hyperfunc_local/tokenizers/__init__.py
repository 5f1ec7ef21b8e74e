"""Text to token ids and back: BPE and unigram files, GGUF vocabularies, chat templates, incremental decoding."""
