"""Tensors to words: fixed-point grids, raw bits, and which tensors make a word."""
