"""The check in Triton, interpreted, finds what operations of torch find."""

import warnings
from contextlib import contextmanager
from functools import partial

import pytest
import torch

from parimend import kernels
from parimend.kernels import screen_torch, screen_triton, trust_triton

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def new():
    screen_triton.works.forget()
    yield
    screen_triton.works.forget()


@pytest.mark.parametrize(
    ("dtype", "k", "blocks"),
    [
        pytest.param(torch.float32, 1, 1, marks=pytest.mark.long),
        pytest.param(torch.float32, 3, 2, marks=pytest.mark.long),
        pytest.param(torch.float32, 1, 5, marks=pytest.mark.long),
        (torch.bfloat16, 3, 2),
        (torch.float64, 1, 5),
    ],
)
def test_it_finds_what_torch_finds(monkeypatch, dtype, k, blocks):
    monkeypatch.setattr(screen_triton, "WORK", 64)  # several tiles, and a part of one
    monkeypatch.setattr(screen_triton, "_POSITIONS", 16)
    torch.manual_seed(0)
    n, rows = 40, 3
    wide = torch.promote_types(dtype, torch.float32)
    y, x = torch.randn(rows, n * blocks).to(dtype), torch.randn(rows, 23).to(dtype)
    P, PW, Pb = (torch.randn(size).to(wide) for size in ((k, n), (k * blocks, 23), (k * blocks,)))
    P[0] = 1.0
    parts, planes = y.reshape(-1, n), torch.randn(2, n, 20).to(dtype)
    goal, field = torch.randn(len(parts), k).to(wide), torch.randn(2, k, 20).to(wide)
    none = torch.empty(0, k, 1).to(wide)
    calls = (
        ("any_suspicious_product", (y, P, x, PW, Pb)),
        ("any_suspicious_row", (parts, P, goal)),
        ("any_suspicious_row", (parts, P, none[..., 0])),
        ("any_suspicious_plane", (planes, P, field)),
        ("any_suspicious_plane", (planes, P, none)),
    )
    answers = set()
    for tau2 in (30.0, 0.1):
        for name, arguments in calls:
            widened = (t.to(wide) for t in arguments)
            right = getattr(screen_torch, name)(*widened, tau2, 0.0)
            found = getattr(screen_triton, name)(*arguments, tau2, 0.0)
            assert bool(found) == bool(right)
            answers.add(bool(right))
    assert answers == {False, True}


@pytest.mark.filterwarnings("ignore:overflow encountered")  # numpy's, in the interpreter
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_nothing_that_is_not_finite_or_huge_passes(value):
    y, P, none = torch.zeros(5, 40), torch.ones(1, 40), torch.empty(0, 1)
    assert not screen_triton.any_suspicious_row(y, P, none, 1.0, 0.0)
    y[3, 17] = value
    assert screen_triton.any_suspicious_row(y, P, none, 1.0, 0.0)
    assert screen_triton.any_suspicious_plane(y[..., None], P, none[..., None], 1.0, 0.0)


@pytest.mark.parametrize("shape", [(1, 2, 1 << 25), (1 << 17, 2, 1), (70_000, 2, 300)])
def test_there_may_be_any_number_of_planes_and_positions(monkeypatch, shape):
    """A GPU takes up to 2^31 programs along the first axis, and 65,535 along others."""
    grids = []

    class Launched:
        def __getitem__(self, grid):
            grids.append(grid)
            return lambda *args, **kwargs: None

    monkeypatch.setattr(screen_triton, "works", lambda device: True)
    monkeypatch.setattr(screen_triton, "_check_planes", Launched())
    P, none, place = torch.ones(1, 2), torch.empty(0, 1, 1), torch.zeros((), dtype=torch.int32)
    screen_triton.any_suspicious_plane(torch.zeros(()).expand(shape), P, none, 1.0, 0.0, place)
    [(programs, *others)] = grids
    assert programs < 1 << 31
    assert all(count < 1 << 16 for count in others)


@pytest.mark.parametrize("kernel", [screen_triton, screen_torch])
def test_alarms_add_up_in_a_place(kernel):
    P, none, place = torch.ones(1, 40), torch.empty(0, 1), torch.zeros((), dtype=torch.int32)
    good, bad = torch.zeros(5, 40), torch.ones(5, 40)
    for y, alarm in ((good, 0), (bad, 1), (good, 1)):
        kernel.any_suspicious_row(y, P, none, 1.0, 0.0, place)
        assert int(place) == alarm


@pytest.mark.parametrize("found", [torch.ones(()), torch.zeros(()), None])
def test_torch_takes_the_place_of_devices_that_are_wrong(monkeypatch, found):
    monkeypatch.setattr(screen_triton, "_row", lambda *args: 1 // 0 if found is None else found)
    y, P, none = torch.ones(5, 40), torch.ones(1, 40), torch.empty(0, 1)
    with pytest.warns(RuntimeWarning, match="Triton does not work on cpu, operations of torch"):
        assert screen_triton.any_suspicious_row(y, P, none, 1.0, 0.0)


def test_a_program_that_does_not_compile_ends_no_run(monkeypatch):
    y, P, none = torch.ones(5, 40), torch.ones(1, 40), torch.empty(0, 1)
    assert screen_triton.works(CPU)
    monkeypatch.setattr(screen_triton, "_row", lambda *args: 1 // 0)
    with pytest.warns(RuntimeWarning, match="ZeroDivisionError"):
        assert screen_triton.any_suspicious_row(y, P, none, 1.0, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert not screen_triton.any_suspicious_row(0 * y, P, none, 1.0, 0.0)


def test_too_little_memory_says_nothing_of_a_device(monkeypatch):
    def scarce(*args):
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(screen_triton, "_row", scarce)
    with pytest.raises(torch.OutOfMemoryError):
        screen_triton.works(CPU)


def test_no_option_is_asked_for_that_a_compiler_does_not_have(monkeypatch):
    assert trust_triton.limited(64) == {"maxnreg": 64}
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert trust_triton.limited(64) == {}


def test_kernels_go_to_the_device_of_the_outputs(monkeypatch):
    y, P, none, on = torch.ones(5, 40), torch.ones(1, 40), torch.empty(0, 1), list[torch.device]()

    @contextmanager
    def launching_on(device):
        on.append(device)
        yield
        on.pop()

    def within(kernel, *args):
        assert on == [y.device]
        return kernel(*args)

    for name in ("_row", "_product", "_plane"):
        monkeypatch.setattr(screen_triton, name, partial(within, getattr(screen_triton, name)))
    monkeypatch.setattr(screen_triton, "launching_on", launching_on)
    assert screen_triton.any_suspicious_row(y, P, none, 1.0, 0.0)
    assert screen_triton.works(y.device)


def test_it_is_picked_for_a_gpu():
    kernels._has_triton.cache_clear()
    assert kernels.on("screen", "cuda") is screen_triton
    assert kernels.on("screen", "mps") is screen_torch
