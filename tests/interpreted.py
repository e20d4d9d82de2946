"""Kernels in Triton, interpreted: in small portions, as interpreting is slow."""

from contextlib import contextmanager

from parimend.kernels import power_triton, product_triton, stream_triton


@contextmanager
def small_portions(monkeypatch):
    """Power sums are computed in small portions, and the processor is trusted with it."""
    for module, name, value in (
        (stream_triton, "WIDTH", 64),
        (stream_triton, "ROWS", 8),
        (product_triton, "CHUNK", 1 << 8),
        (product_triton, "SUMS", 8),
        (product_triton, "ROWS", 4),
        (product_triton, "ROOM", 1 << 14),
        (product_triton, "_LEAST", 1 << 13),
    ):
        monkeypatch.setattr(module, name, value)
    kept = stream_triton._tables, product_triton._units
    for each in kept:
        each.cache_clear()
    power_triton.works.forget()
    monkeypatch.setattr(power_triton, "works", lambda device: True)
    yield
    for each in kept:
        each.cache_clear()
