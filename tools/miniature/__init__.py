"""The maker of the miniature's base model: its text, its tokenizer, its training."""
