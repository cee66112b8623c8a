"""RULER (NVIDIA/RULER c3f5e3b, Apache-2.0): 13 synthetic long-context tasks at any length, for any tokenizer."""
