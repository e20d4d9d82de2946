"""Choosing names by patterns, and listing them."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from parimend import fingerprint, guard_, plan, protect_file
from parimend.errors import GuardError, WordError
from parimend.names import listed, select, some
from parimend.upsets import Upset, upset_

NAMES = ("conv1.weight", "conv1.bias", "fc.weight", "fc.bias")


def test_everything_by_default():
    assert select(NAMES, None) == list(NAMES)


@pytest.mark.parametrize("pattern", ["conv1", "!conv1", "conv?"])
def test_the_name_of_a_module_is_answered_with_the_pattern_of_what_is_in_it(pattern):
    with pytest.raises(WordError, match=re.escape(f"matches {pattern!r}, but '{pattern}.*' does")):
        select(NAMES, pattern)


@pytest.mark.parametrize(
    ("only", "chosen"),
    [
        (["fc.*"], [2, 3]),
        (["*.bias", "fc.*"], [1, 2, 3]),
        (["fc.weight", "conv1.weight"], [0, 2]),
        (["conv?.[bw]*"], [0, 1]),
        ("*.weight", [0, 2]),
        ("!*.bias", [0, 2]),
        (["!fc.*", "!*.bias"], [0]),
        (["*.weight", "!fc.*"], [0]),
        (["!fc.*", "*.weight"], [0]),
        (["?onv1.weight", "!fc.*"], [0]),
    ],
)
def test_patterns_keep_the_order_of_the_names(only, chosen):
    assert select(NAMES, only) == [NAMES[i] for i in chosen]


@pytest.mark.parametrize("pattern", ["FC.*", "f", "head.*", "!head.*", "!!fc.*"])
def test_a_pattern_that_matches_nothing(pattern):
    message = re.escape(f"no tensor matches {pattern!r}; there are conv1")
    with pytest.raises(WordError, match=message):
        select(NAMES, ["fc.*", pattern])


@pytest.mark.parametrize("only", ["!*", ["fc.*", "!*.weight", "!*.bias"]])
def test_patterns_that_leave_nothing(only):
    with pytest.raises(WordError, match=r"only=\[.*\] leaves no tensor; there are conv1"):
        select(NAMES, only)


def test_the_message_stays_short():
    with pytest.raises(WordError, match=r"there are w0, .*, w7 and 92 more$"):
        select([f"w{i}" for i in range(100)], ["x"])
    with pytest.raises(WordError, match="there are none"):
        select([], ["x"])


@pytest.mark.parametrize("only", [[], (), set()])
@pytest.mark.parametrize(
    "call",
    [
        lambda path, only: select(NAMES, only),
        lambda path, only: protect_file(path, 3, only=only),
        lambda path, only: plan(path, 3, only=only),
        lambda path, only: fingerprint(path, only=only),
    ],
)
def test_no_pattern_at_all_is_refused(call, only, tmp_path):
    """A seal of nothing would call everything clean, and two prints of nothing are equal."""
    path = tmp_path / "w.npy"
    np.save(path, np.ones(100, np.float32))
    with pytest.raises(WordError, match=re.escape(f"only={only} selects no tensor; leave it out")):
        call(path, only)
    assert list(tmp_path.iterdir()) == [path]


def test_patterns_that_only_take_out_leave_the_rest_of_the_usual():
    """Layers are not asked for by their names then."""
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    with guard_(model, k=4, only="!2", impose="!1") as guards:
        assert [each.cover for each in guards.coverage()] == ["imposed", "uncovered", "uncovered"]
    with pytest.raises(GuardError, match="k=4 checks need more"):
        guard_(model, k=4, only=["2", "!0"])
    with upset_(model, Upset("offset"), only="!0") as upsets:
        model(torch.ones(1, 64))
    assert upsets.struck == [("2", 0)]


def test_the_caller_says_what_is_chosen_from():
    with pytest.raises(GuardError, match=r"no layer matches 'x'; there are fc$"):
        select(iter(["fc"]), "x", what="layer", error=GuardError)


@pytest.mark.parametrize(("count", "text"), [(0, "none"), (2, "0, 1"), (3, "0, 1 and 1 more")])
def test_long_lists_are_cut_short(count, text):
    assert listed([str(i) for i in range(count)], most=2) == text


def test_some_names_come_in_their_order():
    assert some({"b", "a"}) == "a, b"
    assert some("edcba") == "a, b, c and 2 more"
