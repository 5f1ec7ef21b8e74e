"""A help desk of two prompts learns its house rules from feedback; the model is a small program on loopback."""
