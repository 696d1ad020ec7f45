"""Tensors in, tensors out: towers, retrieval models and baselines."""
