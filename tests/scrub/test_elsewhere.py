"""Weights on other devices than the CPU: looked at there, and proven there."""

from types import SimpleNamespace

import pytest
import torch

import parimend as pm
from parimend.carriers import summing
from parimend.errors import SpecError
from parimend.scrub import Scrubber, lanes
from parimend.stores.model import ModelTensors
from tests.elsewhere import Distant, brought, state

__all__ = ["brought"]


@pytest.mark.parametrize("digest", [True, False])
def test_they_are_scrubbed_there(brought, monkeypatch, digest):
    monkeypatch.setattr(summing, "_THERE", 1 << 16)  # several pieces
    here = state()
    seal = pm.protect_(here, 10, pm.Sidecar(digest=digest))
    scrubber = Scrubber({name: Distant(tensor) for name, tensor in here.items()}, seal)
    assert scrubber.sweep() == []
    total = sum(tensor.nbytes for tensor in here.values())
    assert scrubber.counters.bytes_read == total
    assert brought() < 1000  # a few sums of every piece
    before = here["weight"].clone()
    here["weight"].view(-1)[100:5100:500] = float("nan")
    [event] = scrubber.sweep()
    assert (event.kind, len(event.changes), event.word.proof) == ("repaired", 10, "sums")
    assert torch.equal(here["weight"], before)
    assert brought() < 30_000
    here["weight"].view(-1)[100:50_100:500] = float("nan")
    damaged = here["weight"].clone()
    assert [event.kind for event in scrubber.sweep()] == ["uncorrectable"]
    assert torch.equal(here["weight"].view(torch.int32), damaged.view(torch.int32))
    assert brought() < total // 2


def test_an_update_looks_at_them_there(brought):
    here, told = state(), []
    seal = pm.protect_(here, 10)
    there = {name: Distant(tensor) for name, tensor in here.items()}
    scrubber = Scrubber(there, seal, on_event=told.append)
    right = {name: tensor.clone() for name, tensor in here.items()}
    here["weight"][3, 4] = 7.0
    with scrubber.update():
        here["half"].add_(1.0)
        right["half"].add_(1.0)
    assert [event.kind for event in told] == ["repaired", "sealed"]
    assert all(torch.equal(here[name], right[name]) for name in here)
    assert scrubber.sweep() == []


def test_memory_that_fails_is_known_there_too(brought):
    here = state()
    seal = pm.protect_(here, 10)
    scrubber = Scrubber({name: Distant(tensor) for name, tensor in here.items()}, seal)
    kinds = []
    for _ in range(3):
        here["weight"][3, 4] = 7.0
        kinds += [event.kind for event in scrubber.sweep()]
    assert kinds == ["repaired"] * 3 + ["stuck"]
    assert scrubber.stuck == (("weight", (3, 4)),)


def test_sha256_proves_them_if_asked_for(brought):
    here = state()
    seal = pm.protect_(here, 10)
    there = {name: Distant(tensor) for name, tensor in here.items()}
    scrubber = Scrubber(there, seal, proof="sha256")
    here["weight"][3, 4] = 7.0
    [event] = scrubber.sweep()
    assert (event.kind, event.word.proof) == ("repaired", "sha256")


def test_what_cannot_prove_them_is_refused():
    model = torch.nn.Linear(20, 30)
    with pytest.raises(SpecError, match="was sealed without SHA-256"):
        Scrubber(model, pm.protect_(model, 10, pm.Sidecar(digest=False)), proof="sha256")
    with pytest.raises(SpecError, match="proof must be"):
        Scrubber(model, pm.protect_(model, 10), proof="hope")


@pytest.mark.parametrize("there", [range(6), [0, 1], [2, 3], [0, 2, 4], [5]])
def test_pieces_follow_each_other_wherever_they_are(monkeypatch, there):
    """Whatever lies elsewhere, every word is looked at once, in its place."""
    monkeypatch.setattr(summing, "_THERE", 1 << 12)
    torch.manual_seed(1)
    tensors = {f"t{i}": torch.randn(1 + 700 * i).to(torch.bfloat16) for i in range(6)}
    seal = pm.protect_(tensors, 20)
    mixed = ModelTensors({n: Distant(t) if int(n[1]) in there else t for n, t in tensors.items()})
    [word] = seal.words
    carrier = pm.Sidecar()

    def look():
        looking, sizes = carrier.look(word, mixed), []
        while True:
            try:
                sizes.append(next(looking))
            except StopIteration as done:
                return sizes, done.value

    sizes, clean = look()
    assert clean
    assert sum(sizes) == sum(tensor.nbytes for tensor in tensors.values())
    assert max(sizes) <= 1 << 20
    tensors["t5"][3000] = 9.0
    assert not look()[1]


class Card:
    """What torch.cuda would do, written down."""

    def __init__(self):
        self.log = []

    def stream(self, device, priority):
        return SimpleNamespace(device=device, wait_stream=lambda s: self.log.append(("wait", s)))

    def event(self, enable_timing):
        assert enable_timing
        event = SimpleNamespace(record=lambda s: self.log.append(("event", s.device.index)))
        event.elapsed_time = lambda end: 250.0
        event.synchronize = lambda: self.log.append(("until", None))
        return event

    def entered(self, stream):
        card = self

        class Entered:
            def __enter__(self):
                card.log.append(("enter", stream.device.index))

            def __exit__(self, *_):
                card.log.append(("leave", stream.device.index))

        return Entered()


def test_on_a_gpu_a_stream_of_its_own_is_timed(monkeypatch):
    card = Card()
    monkeypatch.setattr(torch.cuda, "Stream", card.stream)
    monkeypatch.setattr(torch.cuda, "Event", card.event)
    monkeypatch.setattr(torch.cuda, "stream", card.entered)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"default {device.index}")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: card.log.append(("all", device)))
    lanes._stream.cache_clear()
    gpus = [torch.device("cuda", 0), torch.device("cuda", 1)]
    result, seconds = lanes.timed(lambda: card.log.append(("work", None)) or 5, gpus)
    assert (result, seconds) == (5, 0.25)
    start = [x for i in (0, 1) for x in (("wait", f"default {i}"), ("enter", i), ("event", i))]
    left = [("event", 0), ("event", 1), ("leave", 1), ("leave", 0), ("until", None)]
    assert card.log == [*start, ("work", None), *left, ("until", None)]

    def over():
        raise StopIteration(7)

    with pytest.raises(StopIteration) as done:  # as generators end
        lanes.timed(over, gpus)
    assert done.value.value == 7
    card.log.clear()
    lanes.wait_for([torch.device("cpu"), gpus[1]])
    assert card.log == [("all", gpus[1])]
    lanes._stream.cache_clear()
