"""How many words an event strikes where tensors are no whole words: against laying them out."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import parimend as pm
from parimend.carriers import Balance, Request, Sidecar
from parimend.carriers.exposure import exposed_of
from parimend.risk import Environment, Events, Service
from parimend.risk.chance import risk
from parimend.risk.crowd import Crowd
from parimend.risk.exposed import Exposed
from parimend.words.layout import Part


def struck(sizes, words):
    """How many words of tensors that lie side by side each place strikes, where an event may be."""
    begins = np.concatenate([np.arange(size) % 4 == 0 for size in sizes])  # a word of its own
    word_of_byte = np.cumsum(begins)
    first = np.arange(0, sizes.sum(), 4)
    last = np.minimum(first + 4 * words, sizes.sum()) - 1
    return word_of_byte[last] - word_of_byte[first] + 1


@pytest.mark.parametrize("words", [2, 5, 40])
def test_it_is_never_more_than_is_said(rng, words):
    """Nor more often; whether an event fits into tensors, or tensors into it."""
    for _ in range(100):
        sizes = rng.choice([1, 2, 3, 4, 5, 7, 8, 10, 16, 101, 400, 2002], rng.integers(2, 30))
        odd = Counter(sizes[sizes % 4 > 0].tolist())
        crowd = Crowd(int(sizes.sum()), tuple(sorted(odd.items())))
        counts = struck(sizes, words)
        events = crowd.struck_by(Events((words,), (1.0,)))
        assert counts.max() <= events.largest
        for limit in (words, words + 1, words + 2, 2 * words):
            assert (counts > limit).mean() <= events.beyond(limit) + 1e-9


@pytest.mark.parametrize("words", [2, 16, 40])
def test_what_lies_behind_a_tensor_of_odd_length_is_shifted(words):
    """One large tensor after another: each is a word of its own, or all are one."""
    sizes, said = np.array([2002, 4001, 803]), Events((words,), (1.0,))
    crowd = Crowd(sizes.sum(), tuple((n, 1) for n in sorted(sizes)))
    counts = struck(sizes, words)
    assert words + 2 == counts.max() <= crowd.struck_by(said).largest
    assert counts[600:1400].min() == words + 1  # within the second one, and far from its ends
    apart = Crowd(shifted=True).struck_by(said)
    assert apart.sizes == (words + 1,)


def test_what_a_disk_tells_begins_within_a_word_anyway():
    crowd = Crowd(1_000_000, ((20_001, 2),))
    events = crowd.struck_by(Events((1025,), (1.0,)), within=True)
    assert events.sizes == (1025, 1026)


def file_of(path, sizes, rng):
    """A file of tensors of so many bytes, and where they begin in it."""
    save_file({f"t{i:02d}": rng.integers(0, 256, n, dtype="u1") for i, n in enumerate(sizes)}, path)
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


@pytest.mark.parametrize(
    ("sizes", "per"), [([4002, 2000], "model"), ([101] * 20, "model"), ([4002, 2000], "tensor")]
)
def test_any_line_of_a_file_is_repaired_with_the_budget_of_a_plan(tmp_path, rng, sizes, per):
    """Lines of 64 bytes, wherever they are in the memory of tensors of odd length."""
    path = tmp_path / "m.safetensors"
    begins = file_of(path, sizes, rng)
    lines = Service(Environment("x", 1e-12, Events.of("16")), target=1e-6)
    made = pm.plan(path, service=lines, per=per, measure=False)
    assert made.met
    assert made.errors in (17, 18)
    scarce = pm.plan(path, made.errors - 1, service=lines, per=per, measure=False)
    assert scarce.risk.large > 0
    pm.protect_file(path, made)
    whole = path.read_bytes()
    for at in range(-(-begins // 64) * 64, len(whole) - 63, 64):
        damaged = bytes(x ^ 0xFF for x in whole[at : at + 64])
        path.write_bytes(whole[:at] + damaged + whole[at + 64 :])
        assert pm.check_file(path).verdict is pm.Verdict.CORRECTABLE


def test_what_is_of_whole_words_and_what_strikes_one_is_as_it_was():
    events = Events.of({1: 0.5, 64: 0.5})
    assert Crowd(1000).struck_by(events) is events
    assert Crowd(1000, ((1, 3),)).struck_by(Events()).sizes == (1,)


def test_an_event_that_fits_may_be_beyond_the_budget_where_tensors_are_small():
    word = Exposed(8.0 * 3000, np.zeros(101))
    where = Environment("mine", rate=1e-9, events=Events.of("100"))
    assert risk([word], where, 1.0).large == 0
    crowd = Crowd(3000, ((2, 1000),))
    expected = 24_000 * 1e-9 * 365.25 * crowd.near(100)
    large = risk([word._replace(crowd=crowd)], where, 1.0).large
    assert large == pytest.approx(-np.expm1(-expected))


def test_a_sector_of_scales_takes_a_larger_budget():
    """Scales of 16 bits, one for each tensor: each takes a word of its own."""
    scales = {f"{n}.scale": torch.ones((), dtype=torch.bfloat16) for n in range(1000)}
    weights = {"w": torch.zeros(1000, 1000)}
    asked = Service("disk", target=1e-9)
    plain = pm.plan(weights, service=asked, measure=False)
    made = pm.plan({**scales, **weights}, service=asked, measure=False)
    assert (plain.errors, made.errors) == (513, 763)
    # The scales, and a sector less their bytes, all told: an erasure is half an error.
    assert 2 * made.errors >= 1000 + (4096 - 2000) // 4
    assert "crowd" not in made.words[0].as_dict()


def test_an_event_of_several_words_strikes_every_plane():
    """A flipped bit is in one of them; what strikes whole words is in all."""
    weights = [Part("w", "F32", (5000,), 0, 5000)]
    shares = [(200, {"w": 0xFF800000}), (4, {"w": 0x007FFFFF})]
    request = Request(4, Sidecar(), balance=Balance.of(weights, shares))
    made = pm.plan(
        {"w": torch.zeros(5000)}, SimpleNamespace(request=request), service=Environment("x", 1e-12)
    )
    single = risk(exposed_of(made.words), made.where, 1.0)
    there = Environment("x", 1e-12, Events.of("16"))
    burst = risk(exposed_of(made.words), there, 1.0)
    assert burst.events == single.events == pytest.approx(160_000 * 1e-12 * 365.25)
    assert single.large == 0
    assert burst.large == pytest.approx(burst.events, rel=1e-3)


@pytest.mark.parametrize(("errors", "size"), [(40, 30), (31, 30), (9, 4)])
def test_what_reaches_from_one_word_into_the_next_is_no_more_than_is_said(rng, errors, size):
    """Rows side by side: an event is anywhere, and strikes what is there."""
    rows, width, expected, trials = 200, 65, 25.0, 3000
    where = Environment("x", expected / (32 * rows * width), events=Events.of(str(size)))
    row = Exposed(32.0 * width, np.zeros(errors + 1), times=rows, words=width)
    lost = 0
    for _ in range(trials):
        begins = rng.integers(-size + 1, rows * width, rng.poisson(expected))
        places = np.unique((begins[:, None] + np.arange(size)).ravel())
        within = places[(places >= 0) & (places < rows * width)]
        lost += np.bincount(within // width, minlength=1).max(initial=0) > errors
    said = risk([row], where, 1.0, 1 / 365.25).unrepaired
    assert lost / trials <= said + 3.0 * np.sqrt(said / trials)
