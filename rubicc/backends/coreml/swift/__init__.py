"""The Swift package beside a model: typed wrapper, tokenizer, decoder, tests."""
