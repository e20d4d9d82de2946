"""What a device has computed is read once it is there."""

import pytest
import torch
from torch.overrides import TorchFunctionMode

from parimend.kernels import reading_torch
from parimend.kernels.reading_torch import read


class OnGpu:
    """Values that a device computes later than they are asked for."""

    is_cuda, device, dtype, shape = True, torch.device("cuda", 1), torch.int32, torch.Size([2])


@pytest.fixture
def launched(monkeypatch):
    """What a device was asked for and has not done."""
    waiting = []

    class Room(list):
        def copy_(self, values, non_blocking):
            assert values is OnGpu
            assert non_blocking
            waiting.append(lambda: self.__init__([0, 1]))

        def tolist(self):
            return [*self]

    def wait_for(device):
        assert device == OnGpu.device
        while waiting:
            waiting.pop()()

    monkeypatch.setattr(reading_torch, "_room", lambda *key: Room([7, 7]))
    monkeypatch.setattr(reading_torch, "_wait_for", wait_for)
    return waiting


def test_a_gpu_is_waited_for_after_the_copy_was_asked_for(launched):
    assert read(OnGpu) == [0, 1]
    assert not launched


class WithoutPinning(TorchFunctionMode):
    """Makes tensors that are to be pinned, which takes a GPU, in other memory."""

    def __init__(self):
        super().__init__()
        self.pinned = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        self.pinned += kwargs.pop("pin_memory", False)
        return func(*args, **kwargs)


def test_it_is_memory_of_the_host_whatever_is_the_default():
    with torch.device("meta"), torch.inference_mode(), WithoutPinning() as instead:
        room = reading_torch._room(0, torch.int32, torch.Size([3]))
    assert room.is_cpu
    assert not room.is_inference()
    assert instead.pinned == 1
    reading_torch._room.cache_clear()


@pytest.mark.parametrize("values", [[1, 0], [], [0.5, float("inf")], [True]])
def test_values_on_the_cpu_are_those_of_torch(values):
    assert read(torch.tensor(values)) == values
