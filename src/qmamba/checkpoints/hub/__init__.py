"""Weights on the Hugging Face hub: what an id means, checked downloads, model cards, uploads."""
