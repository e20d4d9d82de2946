"""Damage of many words that follows an order is seen: sums of structured points must not cancel."""

import numpy as np
import pytest
import torch

import parimend as pm

SIZES = [16, 32, 64, 128, 768, 4096, 16384]
CASES = [(errors, SIZES) for errors in (1, 2, 8, 9, 50, 210, 1001)]
# Damage of many words takes long to look for with so many sums.
CASES += [(1000, SIZES[:4]), pytest.param(1000, SIZES[4:], marks=pytest.mark.long)]
CASES += [pytest.param(4, SIZES, marks=pytest.mark.long)]


def exchanged(size):
    """Scale 1 and offset 0 of a normalization change places."""
    w, b = torch.ones(size), torch.zeros(size)
    return {"w": w, "b": b}, {"w": b, "b": w}


def negated(size):
    w = torch.full((size,), 0.5)
    return {"w": w}, {"w": -w}


def halves(size):
    w = torch.arange(size).remainder(2).float().view(-1, 2).t().contiguous()
    return {"w": w}, {"w": w.flip(0)}


def inverted(size):
    w = torch.arange(4 * size) < 2 * size
    return {"w": w}, {"w": ~w}


def rolled(size):
    w = torch.arange(size, dtype=torch.int32)
    return {"w": w}, {"w": w.roll(size // 2)}


def rolled_long(size):
    w = torch.arange(size)
    return {"w": w}, {"w": w.roll(16)}


def rows(size):
    w = torch.zeros(4, size)
    w[1] = 1
    return {"w": w}, {"w": w[[1, 0, 2, 3]].contiguous()}


def shifted(size):
    w = torch.arange(size, dtype=torch.int32)
    return {"w": w}, {"w": w + 1}


KINDS = [exchanged, negated, halves, inverted, rolled, rolled_long, rows, shifted]


@pytest.mark.parametrize(("errors", "sizes"), CASES)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_it_is_not_called_clean(kind, errors, sizes):
    for size in sizes:
        good, bad = kind(size)
        if torch.equal(good["w"], bad["w"]):
            continue
        seal = pm.protect_(good, errors)
        assert pm.check(good, seal).verdict is pm.Verdict.CLEAN
        for name, tensor in bad.items():
            good[name] = tensor.clone()
        wrong = {name: tensor.clone() for name, tensor in good.items()}
        found = pm.check(good, seal)
        assert found.verdict in (pm.Verdict.CORRECTABLE, pm.Verdict.UNCORRECTABLE), size
        done = pm.repair_(good, seal)
        right = kind(size)[0] if done.verdict is pm.Verdict.CORRECTED else wrong
        assert all(torch.equal(good[name], right[name]) for name in right), size


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("errors", [9, 210, 1000])
def test_within_the_budget_it_is_repaired(errors, seed):
    model = {"w": torch.randn(100_000, generator=torch.Generator().manual_seed(seed))}
    good = model["w"].clone()
    seal = pm.protect_(model, errors, seed=seed)
    bits = model["w"].view(torch.int32)
    for row in range(4):
        bits[8 * row] += 1 << 20
        bits[8 * row + 800] -= 1 << 20
    report = pm.repair_(model, seal)
    assert report.verdict is pm.Verdict.CORRECTED
    assert len(report.changes) == 8
    assert torch.equal(model["w"], good)


@pytest.mark.parametrize("rows", [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096])
def test_no_order_of_a_tile_cancels_in_any_sum(rows):
    code = pm.codes.PowerSums(4 * 8 * rows, rows)
    words = np.zeros(code.n, np.uint32)
    words[: code.tile] = 7  # against the same in another tile
    others = np.roll(words, 2 * code.tile)
    changed = code.subtract(code.syndrome(words), code.syndrome(others))
    assert (changed != 0).all()
    words = np.tile(np.arange(8, dtype=np.uint32), code.n // 8)
    assert (code.syndrome(words) != 0).all()
