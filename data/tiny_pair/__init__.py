"""The built-in target/draft pair: its tokenizer, its training samples and its training loop.

The checkpoints lie beside this file (`target/`, `draft/`), `README.md` is their model card and
`scripts/train_tiny_pair.py` makes them.
"""
