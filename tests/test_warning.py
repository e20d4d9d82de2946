"""Warnings point at the user's line, however many hooks and contexts lie between."""

import inspect
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import parimend as pm
from parimend.warning import warn


def line_of(said):
    [warning] = said
    return warning.filename, warning.lineno


def here():
    """The second line after that of the call."""
    frame = inspect.currentframe().f_back
    return frame.f_code.co_filename, frame.f_lineno + 2


def test_a_call_is_where_it_was_made():
    model = torch.nn.Sequential(torch.nn.Embedding(4, 3, max_norm=1.0), torch.nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.fill_(5.0)
    line = here()
    with pytest.warns(UserWarning, match="max_norm") as said:
        pm.protect_(model, 2)
    assert line_of(said) == line


def test_a_hook_is_where_its_step_was_taken():
    model = torch.nn.Linear(4, 2)
    ours, other = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
    with pm.heal_(model, ours, 4):
        model(torch.ones(1, 4)).sum().backward()
        line = here()
        with pytest.warns(UserWarning, match="another optimizer steps it") as said:
            other.step()
    assert line_of(said) == line


def test_a_context_is_where_it_was_entered():
    model = torch.nn.Linear(40, 20)
    optimizer = torch.optim.Adam(model.parameters())
    with pm.heal_(model, optimizer, errors=None) as healing:
        with torch.no_grad():
            model.weight[:10] = 1e9
        line = here()
        with pytest.warns(UserWarning, match="put back") as said:
            healing.update().__enter__()
    assert line_of(said) == line


def test_a_thread_warns_too():
    with pytest.warns(UserWarning, match="in a thread") as said, ThreadPoolExecutor(1) as pool:
        pool.submit(warn, "in a thread").result()
    assert str(said[0].message) == "in a thread"


@pytest.mark.parametrize("name", [None, 3])
def test_code_under_no_name_is_where_it_was_executed(name):
    line = here()
    with pytest.warns(UserWarning, match="executed") as said:
        exec("warn('executed')", {"__name__": name, "warn": warn})
    assert line_of(said) == line
