"""Warnings point at the user's line, however many hooks and contexts lie between."""

import inspect
import threading

import pytest
import torch

import parimend as pm


def line_of(said):
    [warning] = said
    return warning.filename, warning.lineno


def here():
    """The line after that of the call."""
    frame = inspect.currentframe().f_back
    return frame.f_code.co_filename, frame.f_lineno + 1


def test_a_call_is_where_it_was_made():
    model = torch.nn.Sequential(torch.nn.Embedding(4, 3, max_norm=1.0), torch.nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.fill_(5.0)
    with pytest.warns(UserWarning, match="max_norm") as said:
        line = here()
        pm.protect_(model, 2)
    assert line_of(said) == line


def test_a_hook_is_where_its_step_was_taken():
    model = torch.nn.Linear(4, 2)
    ours, other = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
    with pm.heal_(model, ours, 4):
        model(torch.ones(1, 4)).sum().backward()
        with pytest.warns(UserWarning, match="another optimizer steps it") as said:
            line = here()
            other.step()
    assert line_of(said) == line


def test_a_context_is_where_it_was_entered():
    model = torch.nn.Linear(40, 20)
    optimizer = torch.optim.Adam(model.parameters())
    with pm.heal_(model, optimizer, errors=None) as healing:
        with torch.no_grad():
            model.weight[:10] = 1e9
        with pytest.warns(UserWarning, match="put back") as said:
            line = here()
            with healing.update():
                pass
    assert line_of(said) == line


def test_a_thread_warns_too():
    from parimend.warning import warn

    with pytest.warns(UserWarning, match="in a thread") as said:
        thread = threading.Thread(target=warn, args=("in a thread",))
        thread.start()
        thread.join()
    assert line_of(said)[0] == threading.__file__
