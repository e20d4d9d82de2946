"""Transformers whose operations are struck one by one: what guards see of what no layer computes.

    python benchmarks/guard_functions.py [--strikes N] [--seconds S]

Networks of `transformers` with random weights, in evaluation mode, float32, one thread. One bit of
one output of one function call is flipped in every forward, all calls that compute something in
turn: products of layers, products by functions (attention scores, experts), and everything else.
Flips that leave the network's output as it is do not count; of the others, too, some change it by
less than 1e-4 of its rms. Overhead is in thread time, of models that are called in turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from torch.overrides import TorchFunctionMode

import parimend as pm
from parimend.guards import matmul

METHODS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "guards": {},
    "with activations": {"activations": True},
}
MOVING = {
    "chunk", "clone", "contiguous", "detach", "dropout", "empty_like", "expand", "flatten",
    "float", "gather", "index_select", "permute", "repeat", "reshape", "split", "squeeze", "to",
    "transpose", "unsqueeze", "view", "zeros_like", "repeat_interleave", "type_as", "__getitem__",
}  # fmt: skip
"""Functions that compute nothing, and move what others have."""


def networks(batch: int, length: int) -> dict[str, Any]:
    tokens = torch.randint(3, 900, (batch, length))
    sizes = {"hidden_size": 384, "num_attention_heads": 6, "vocab_size": 1000}
    bert = transformers.BertConfig(
        **sizes, num_hidden_layers=6, intermediate_size=1536, attn_implementation="eager"
    )
    gpt2 = transformers.GPT2Config(
        n_layer=4, n_embd=384, n_head=6, vocab_size=1000, attn_implementation="eager"
    )
    mixtral = transformers.MixtralConfig(
        **sizes,
        num_hidden_layers=2,
        intermediate_size=768,
        num_key_value_heads=2,
        num_local_experts=4,
        attn_implementation="sdpa",
    )
    return {
        "BERT, 6 layers of 384": (transformers.BertModel(bert), tokens),
        "GPT-2, 4 layers of 384": (transformers.GPT2LMHeadModel(gpt2), tokens),
        "Mixtral, 2 layers of 384, 4 experts": (transformers.MixtralForCausalLM(mixtral), tokens),
    }


class Struck(TorchFunctionMode):
    """Flips one bit of what one function call of a network gives; counts the calls.

    What guards compute themselves, and do again, is no call of the network.
    """

    def __init__(self, number: int = -1, seed: int = 0) -> None:
        super().__init__()
        self.number, self.rng = number, np.random.default_rng([seed, number + 1])
        self.kinds: list[str] = []

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        y = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        caller, frame = _caller(sys._getframe(1))
        if caller.startswith("parimend.") and frame.f_code.co_name != "__torch_function__":
            return y
        if type(y) is not torch.Tensor or y.dtype is not torch.float32 or not y.numel():
            return y
        if name.endswith("_") or name in MOVING:  # __get__ and the like, and what works in place
            return y
        layer = frame.f_back if caller.startswith("parimend.") else frame
        within = name == "linear" and isinstance(layer.f_locals.get("self"), nn.Linear)
        products = matmul.FUNCTIONS | {"einsum", "scaled_dot_product_attention"}
        kind = "layers" if within else "functions" if name in products else "others"
        if len(self.kinds) == self.number:
            y = y.contiguous().clone()
            flat = y.view(torch.int32).view(-1)
            flat[int(self.rng.integers(len(flat)))] ^= 1 << int(self.rng.integers(31))
        self.kinds.append(kind)
        return y


def _caller(frame: Any) -> tuple[str, Any]:
    """The module that calls a function, and where; functions of torch that call others left out."""
    while True:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith("torch.") or name.startswith("torch.nn.modules."):
            return name, frame
        frame = frame.f_back


def guarded(model: nn.Module, options: dict[str, Any] | None) -> Any:
    return nullcontext() if options is None else pm.guard_(model, k=8, **options)


def strike(model: nn.Module, x: torch.Tensor, strikes: int) -> None:
    with Struck() as counted:
        right = model(x)[0]
    kinds = counted.kinds
    harmful: Counter[str] = Counter()
    noticed: Counter[tuple[str, str]] = Counter()
    equal: Counter[tuple[str, str]] = Counter()
    for trial in range(strikes):
        number = trial % len(kinds)
        with Struck(number, trial):
            wrong = model(x)[0]
        if torch.equal(wrong, right):
            continue
        harmful[kinds[number]] += 1
        for method, options in METHODS.items():
            if options is None:
                continue
            with guarded(model, options) as guards:
                with Struck() as counted:
                    model(x)
                assert counted.kinds == kinds, "the guarded model calls other functions"
                with Struck(number, trial):
                    found = model(x)[0]
                noticed[method, kinds[number]] += bool(guards.events)
                off = (found - right).abs().max() / right.square().mean().sqrt()
                equal[method, kinds[number]] += bool(off < 1e-4)
    for method in list(METHODS)[1:]:
        cells = [
            f"{noticed[method, kind]} / {equal[method, kind]} of {harmful[kind]}"
            for kind in ("layers", "functions", "others")
        ]
        print(f"| | {method} | {' | '.join(cells)} | |", flush=True)


def overhead(model: nn.Module, x: torch.Tensor, seconds: float) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in METHODS}
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        for name, options in METHODS.items():
            with guarded(model, options):
                model(x)
                before = time.thread_time()
                model(x)
                times[name].append(time.thread_time() - before)
    return {name: statistics.median(t) for name, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--strikes", type=int, default=1000, help="for each network")
    parser.add_argument("--seconds", type=float, default=30.0, help="of timing, for each network")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("noticed / output right to 1e-4 of its rms, of strikes that change it\n")
    print("| network | | layers | products by functions | others | overhead |\n" + "|---" * 6 + "|")
    for (name, (model, x)), (_, (small, few)) in zip(
        networks(4, 128).items(), networks(1, 16).items(), strict=True
    ):
        with torch.no_grad():
            times = overhead(model.eval(), x, args.seconds)
            costs = [f"{each} {100 * (t / times['none'] - 1):+.0f} %" for each, t in times.items()]
            print(f"| {name} | | | | | {1e3 * times['none']:.0f} ms; {', '.join(costs[1:])} |")
            strike(small.eval(), few, args.strikes)


if __name__ == "__main__":
    main()
