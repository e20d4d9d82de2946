"""What processes need, loaded once in the one that they are forked from; it has no threads."""

import torch
import torch._dynamo  # fully_shard loads it

import parimend as pm
from tests.distributed import workers

__all__ = ["workers"]

weights = {"w": torch.zeros(100)}
pm.check(weights, pm.protect_(weights, errors=1))  # kernels are loaded when they are needed
