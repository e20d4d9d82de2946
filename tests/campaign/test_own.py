"""Protections of users: classes beside a spec."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

from parimend.campaign import Spec, lines, run
from parimend.errors import CampaignError, MismatchError, SpecError
from tests.campaign.conftest import HERE, tables

PAGE = Path(__file__).parents[2] / "docs" / "campaigns.md"
EXAMPLE = re.search(r"```python\n# rules.py\n(.*?)```", PAGE.read_text(), re.DOTALL).group(1)
WRONG = """
class Silent(Clipped):
    def repair_(self, tensors, kept):
        return None

class Failing(Clipped):
    def repair_(self, tensors, kept):
        return kept["nothing"]

class Unable(Clipped):
    def protect_(self, network):
        return network.nothing

class Wordless(Clipped):
    def repair_(self, tensors, kept):
        return Answer("clean", 0)

class Uncounted(Clipped):
    def nbytes(self, kept):
        return "many"

class Unbuilt(Clipped):
    def __init__(self):
        1 / 0

class Hidden(Clipped):
    def exposed(self, kept):
        raise ValueError("no bytes")
    def nbytes(self, kept):
        return len(self.exposed(kept))

class Ending(Clipped):
    def watch_(self, model, kept):
        raise SystemExit(3)

class Torn:
    def __reduce__(self):
        return self.read, ()
    @staticmethod
    def read():
        raise OSError("torn")

class Unread(Clipped):
    def protect_(self, network):
        return Torn()
    def nbytes(self, kept):
        return 0

class Unfinished(Protection):
    def protect_(self, network):
        return None

def clipped(network):
    return None
"""


@pytest.fixture
def rules(tmp_path, monkeypatch):
    """The module of the page's example, and of classes that do not work; its name."""
    name = "rules_of_a_user"
    (tmp_path / f"{name}.py").write_text(EXAMPLE + WRONG)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def protected(kind, **options):
    """A campaign under one such protection, and under none."""
    own = {"own": {"kind": kind, **options}, "none": {}}
    return Spec.of(tables(protections=own, faults={"far": {"kind": "nonfinite", "count": 1}}), HERE)


def test_the_example_of_the_page_meets_the_faults_of_a_campaign(rules, tmp_path):
    run(protected(f"{rules}:Clipped", margin=0.1), tmp_path / "out", workers=1)
    found = {line.protection: line for line in lines(tmp_path / "out")}
    assert found["own"].outcomes["detected"].value == 1.0
    assert found["none"].outcomes["silent"].value == 1.0
    assert found["own"].score.value > found["none"].score.value
    assert found["own"].nbytes == 8 * 4


def test_the_example_of_the_page_clips_weights_of_any_dtype(rules):
    rule = importlib.import_module(rules).Clipped()
    tensors = {"w": torch.tensor([90, 3, 255], dtype=torch.uint8)}
    rule.repair_(tensors, {"w": (3.0, 90.0)})
    assert tensors["w"].tolist() == [90, 3, 90]


def test_what_was_found_is_reported_without_the_class(rules, tmp_path):
    run(protected(f"{rules}:Clipped"), tmp_path / "out", workers=1)
    sys.modules.pop(rules)
    (tmp_path / f"{rules}.py").unlink()
    assert {line.protection for line in lines(tmp_path / "out")} == {"own", "none"}


def test_what_a_class_keeps_must_not_change_in_between(rules, tmp_path):
    spec = protected(f"{rules}:Clipped")
    run(spec, tmp_path / "out", workers=1)
    sys.modules[rules].Clipped.nbytes = lambda self, kept: 7
    with pytest.raises(MismatchError, match="under own keeps 7 bytes, and 32 when the campaign"):
        run(spec, tmp_path / "out", workers=1)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("Nothing", {}, SpecError, r"\[protections.own\]: module '.*' has no class 'Nothing'"),
        ("clipped", {}, SpecError, "is no class derived from .*Protection"),
        ("Unfinished", {}, SpecError, "has no repair_"),
        ("Clipped", {"margn": 1.0}, SpecError, "unknown key 'margn'; did you mean 'margin'"),
        ("Clipped", {"margin": "wide"}, SpecError, "margin must be a number"),
        ("Unable", {}, CampaignError, "on digits: .*:Unable fails: AttributeError"),
        (
            "Failing",
            {},
            CampaignError,
            r"own, far, trial 0: .*:Failing fails: KeyError: 'nothing' \(.*, line",
        ),
        ("Silent", {}, CampaignError, "must give an Answer of parimend.experiment .*, not None"),
        ("Wordless", {}, CampaignError, "trial 0: repair_ .* with a Verdict, not Answer"),
        ("Uncounted", {}, SpecError, r"nbytes of .*:Uncounted must be a whole number, not .*many"),
        ("Unbuilt", {}, CampaignError, r"on digits: .*:Unbuilt fails: ZeroDivisionError"),
        ("Hidden", {}, CampaignError, r"on digits: .*:Hidden fails: ValueError: no bytes"),
        ("Ending", {}, CampaignError, r"on digits: .*:Ending fails: SystemExit: 3"),
        ("Unread", {}, CampaignError, r"digits under own: .*:Unread fails: OSError: torn"),
    ],
)
def test_a_class_that_does_not_work_is_named(rules, tmp_path, name, options, error, message):
    with pytest.raises(error, match=message):
        run(protected(f"{rules}:{name}", **options), tmp_path / "out", workers=1)
