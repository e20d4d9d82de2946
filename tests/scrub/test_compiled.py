"""Compiled models: every run of a graph goes through the gate, also where it may have no breaks."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import parimend as pm
from parimend.scrub.gate import Gate


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return self.layer(x)


MAKERS = [Net, lambda: nn.Linear(8, 8), lambda: nn.Sequential(nn.Linear(8, 8))]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("in_place", "fullgraph"),
    [
        (False, True),
        (True, False),
        *(pytest.param(x, x, marks=pytest.mark.long) for x in (False, True)),
    ],
)
def test_nothing_changes_while_a_graph_runs(make, in_place, fullgraph):
    running, go_on = threading.Event(), threading.Event()

    def backend(graph, inputs):
        def run(*args):
            running.set()
            if not go_on.wait(60):
                raise TimeoutError
            return graph(*args)

        return run

    torch.compiler.reset()
    model, gate, x = make(), Gate(), torch.ones(1, 8)
    gate.attach(model)
    compiled = model
    if in_place:
        model.compile(backend=backend, fullgraph=fullgraph)
    else:
        compiled = torch.compile(model, backend=backend, fullgraph=fullgraph)
    for _ in range(2):  # compiled, and found again
        running.clear()
        go_on.clear()
        thread = threading.Thread(target=compiled, args=(x,))
        thread.start()
        assert running.wait(60)
        with gate.exclusive(patience=0.2) as entered:
            assert not entered
        go_on.set()
        thread.join()
        with gate.exclusive() as entered:
            assert entered
            running.clear()
            thread = threading.Thread(target=compiled, args=(x,))
            thread.start()
            assert not running.wait(0.2)  # it waits outside
        thread.join()
        assert running.is_set()
    gate.remove()
    running.clear()
    compiled(x)
    assert running.is_set()  # still compiled


@pytest.mark.parametrize("make", MAKERS)
def test_a_graph_that_raises_is_over(make):
    def backend(graph, inputs):
        def run(*args):
            raise ArithmeticError

        return run

    torch.compiler.reset()
    model, gate = make(), Gate()
    gate.attach(model)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    with pytest.raises(ArithmeticError):
        compiled(torch.ones(1, 8))
    with gate.exclusive(patience=60) as entered:
        assert entered


@pytest.mark.parametrize("make", MAKERS)
def test_a_compiled_model_is_repaired_between_two_runs(make):
    torch.compiler.reset()
    model, x = make(), torch.ones(1, 8)
    with torch.no_grad(), pm.Scrubber(model, pm.protect_(model, 3), share=0.5) as scrubber:
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        right = compiled(x)
        next(model.parameters())[0, 0] = 1e9
        end = time.monotonic() + 60
        while not scrubber.counters.repairs and time.monotonic() < end:
            compiled(x)
        assert scrubber.counters.elements_repaired == 1
        assert torch.equal(compiled(x), right)
    assert torch.equal(compiled(x), right)


@torch.no_grad()
def test_one_that_was_compiled_before_or_in_a_larger_graph_is_seen_too():
    torch.compiler.reset()
    model, x = nn.Sequential(nn.Linear(8, 8)), torch.ones(1, 8)
    before = torch.compile(model, backend="eager")
    within = torch.compile(lambda x: model(x) + 1, backend="eager")
    whole = torch.compile(lambda x: model(x) + 2, backend="eager", fullgraph=True)
    before(x), within(x)
    gate, entered = Gate(), []
    gate._lock = Counting(gate._lock, entered)
    gate.attach(model)
    for compiled in (before, within):
        entered.clear()
        compiled(x)
        assert entered == [1, 1]  # in and out
    # A graph without breaks in which nothing calls the gate is refused, not run past it.
    with pytest.raises(torch._dynamo.exc.Unsupported, match="disable"):
        whole(x)


class Counting:
    """A lock that tells when it is held."""

    def __init__(self, lock, calls):
        self._lock, self._calls = lock, calls

    def __enter__(self):
        self._calls.append(1)
        return self._lock.__enter__()

    def __exit__(self, *args):
        return self._lock.__exit__(*args)


_LATER = """
warnings.simplefilter("ignore")
for model, gate in zip(models, gates):
    compiled = torch.compile(model, backend="eager")
    for _ in range(2):
        compiled(torch.ones(1, 8))
        done = threading.Event()
        thread = threading.Thread(target=lambda: (compiled(torch.ones(1, 8)), done.set()))
        with gate.exclusive() as entered:
            assert entered
            thread.start()
            assert not done.wait(0.3)
        thread.join()
        assert done.is_set()
"""


@pytest.mark.parametrize("later", ["", pytest.param(_LATER, marks=pytest.mark.long)])
def test_where_nobody_compiles_the_compiler_is_not_loaded(later):
    """And who does so later waits all the same."""
    code = f"""
import sys, threading, warnings
import torch
from parimend.scrub.gate import Gate
from tests.scrub.test_compiled import MAKERS

models, gates = [make() for make in MAKERS], [Gate() for _ in MAKERS]
for model, gate in zip(models, gates):
    gate.attach(model)
    model(torch.ones(1, 8))
assert "torch._dynamo" not in sys.modules
{later}
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.stdout == "done\n", done.stderr[-2000:]
