import copy
import gc
import inspect
import io
import subprocess
import sys
import threading

import pytest
import torch
from torch import nn

from parimend.guards import guard_
from parimend.impose.moments import second_moments
from parimend.removable import Hook, _Wrapper, is_called, runs, wrap_forward_
from parimend.upsets import Upset, upset_


def test_copies_of_a_model_leave_its_hooks_behind():
    called = []

    class Handle:
        lock = threading.Lock()  # can be neither copied nor pickled

        def __init__(self):
            self.own = threading.Lock()

        def see(self, *args):
            called.append(args[0])

    model = torch.nn.Linear(3, 2)
    model.register_forward_pre_hook(Hook(Handle().see))
    model.register_forward_hook(Hook(Handle().see), always_call=True)
    model.register_load_state_dict_post_hook(Hook(Handle().see))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    x = torch.ones(1, 3)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), model(x))
        assert called == [model, model]
        called.clear()
        other.load_state_dict(model.state_dict())
        assert called == []


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_interrupt_as_a_hook_is_put_on_leaves_none(interrupt_at, count):
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    for begin in (
        lambda: upset_(model, Upset("bitflip")),
        lambda: second_moments(model, [torch.ones(2, 4)]),
    ):
        interrupt_at(count)
        with pytest.raises(KeyboardInterrupt):
            begin()
        assert not any(module._forward_hooks for module in model.modules())
    assert model.training


def test_a_wrapper_may_be_removed_while_it_is_called():
    lines = 0

    def removing(at):
        layer, line = nn.Linear(3, 2), 0
        remove = wrap_forward_(layer, lambda forward, x: forward(x))

        def trace(frame, event, arg):
            nonlocal line, lines
            if frame.f_code is _Wrapper.__call__.__code__ and event == "line":
                if line == at:
                    remove()
                line, lines = line + 1, max(lines, line + 1)
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            layer(torch.ones(3))
        finally:
            sys.settrace(before)

    removing(-1)
    assert lines
    for at in range(lines):
        removing(at)


@pytest.mark.parametrize("options", [{"deferred": True}, {"activations": True}])
def test_a_wrapped_forward_shows_its_arguments(options):
    """Trainers choose the columns of a data set by them, and exporters the sizes that change."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 12)

        def forward(self, pictures, labels=None):
            return self.layer(pictures)

    network = Network().eval()
    shown = inspect.signature(network.forward)
    with guard_(network, 2, **options):
        assert inspect.signature(network.forward) == shown
        sizes = ({0: torch.export.Dim("samples")},)
        exported = torch.export.export(network, (torch.ones(3, 8),), dynamic_shapes=sizes)
    torch.testing.assert_close(exported.module()(torch.ones(5, 8)), network(torch.ones(5, 8)))


def test_garbage_is_not_collected_while_calls_are_looked_up():
    """A thread that a finalizer begins then would wait for ever, and all others for it."""
    code = """
import faulthandler, gc, sys, threading
from parimend.removable import is_called, runs

faulthandler.dump_traceback_later(60, exit=True)

class Garbage:
    def __init__(self):
        self.itself = self

    def __del__(self):
        threading.Thread(target=int).start()

def own():
    return runs(sys._getframe(), threading.get_ident())

for look in (own, lambda: is_called(own)):
    for more in range(40):  # one of them falls due meanwhile
        gc.collect()
        gc.disable()
        Garbage()
        gc.set_threshold(gc.get_count()[0] + more)
        gc.enable()
        look()
gc.collect()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_collected_afterwards_if_it_was_before(enabled):
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        assert runs(sys._getframe(), threading.get_ident())
        assert not is_called(inspect.signature)
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
