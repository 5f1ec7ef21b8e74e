"""From logits to tokens: decoding parameters, filters, draws, stop strings, grammars."""
