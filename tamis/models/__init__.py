"""Language models: a tokenizer, rows of tokens, a training loop, losses per document, and intervals over seeds."""
