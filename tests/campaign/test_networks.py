"""What of a network is struck and protected, and what is said of the rest."""

import json

import pytest
import torch

from parimend.campaign import Spec, Store, lines, run, status
from parimend.campaign.facts import Reach
from parimend.errors import CampaignError, SpecError
from parimend.report import campaign_sheets
from tests.campaign.conftest import HERE, tables


class Quantized(torch.nn.Module):
    """A layer as quantizers write them: 640 bytes of weights in a buffer, 40 of parameters."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("weight", torch.randint(-100, 100, (10, 64), dtype=torch.int8))
        self.bias = torch.nn.Parameter(torch.zeros(10))


def normalized():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(20, 8), torch.nn.BatchNorm1d(8))


def masked():
    """With bits of truth that are not saved."""
    model = torch.nn.Linear(2, 3)
    model.register_buffer("mask", torch.ones(500, dtype=torch.bool), persistent=False)
    return model


class Packed(torch.nn.Module):
    """A layer that saves what it has neither as a parameter nor as a buffer."""

    def __init__(self, packed):
        super().__init__()
        torch.manual_seed(0)
        self.bias = torch.nn.Parameter(torch.ones(10)) if packed < 1000 else None
        self.packed = torch.ones(packed, dtype=torch.int8)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "packed"] = (self.packed.clone(), None)


class Sharing(torch.nn.Linear):
    """A layer with buffers in the memory of its weights, or around it, and one of its own."""

    def __init__(self, view):
        super().__init__(20, 8)
        around = torch.zeros(200)
        self.weight.data = around[:160].view(8, 20)
        self.register_buffer("row", self.weight.data[0])
        if view:
            self.turned = torch.nn.Parameter(self.weight.data.t())
        self.register_buffer("around", around)
        self.register_buffer("own", torch.zeros(3))


class Graph(torch.nn.Linear):
    """A layer on a graph, whose edges are a buffer of some kind."""

    def __init__(self, kind):
        super().__init__(10, 10)
        edges = torch.eye(10)
        if kind == "meta":
            edges = edges.to("meta")
        elif kind == "quantized":
            edges = torch.quantize_per_tensor(edges, 0.1, 0, torch.qint8)
        else:
            edges = getattr(edges, kind)()
        self.register_buffer("edges", edges)

    def forward(self, x):
        return super().forward(self.edges @ x)


def on_graph(model):
    return float(model(torch.ones(10, 10)).sum())


class Remembering(torch.nn.Linear):
    """One that remembers the largest output that it ever had."""

    largest = 0.0

    def __init__(self):
        super().__init__(20, 8)

    def forward(self, x):
        y = super().forward(x)
        self.largest = max(self.largest, float(y.abs().nan_to_num(1e9).max()))
        return y / self.largest


class Counting(torch.nn.Linear):
    """One that counts its runs, in one way or another."""

    def __init__(self, how):
        super().__init__(20, 8)
        self.how = how
        self.register_buffer("runs", torch.zeros(1))

    def forward(self, x):
        if self.how == "in place":
            self.runs += 1
        if self.how == "anew":
            self.runs = self.runs + 1
        if self.how == "moved":
            self.weight.data = self.weight.data.clone()
        return super().forward(x)


def run_once(model):
    return float(model(torch.ones(20)).sum())


def tensors():
    return {"w": torch.ones(10)}


def spec(build, arguments=None, **source):
    name = f"tests.campaign.test_networks:{build}"
    network = {"build": name, "arguments": arguments or {}, **source}
    flip = {"kind": "bitflip", "count": 1}
    given = tables(networks={"n": network}, faults={"flip": flip}, stop={"trials": 30}, block=20)
    return Spec.of(given, HERE)


def test_most_of_a_network_in_buffers_is_no_evidence_unless_it_is_asked_for(tmp_path):
    message = r"\[networks.n\]: 640 of 680 bytes are in buffers \(weight\): say buffers = true"
    with pytest.raises(SpecError, match=message):
        run(spec("Quantized"), tmp_path / "a", workers=1)
    for buffers, reach in ((True, Reach("n", 680, 0, 0)), (False, Reach("n", 40, 640, 0))):
        out = tmp_path / str(buffers)
        assert run(spec("Quantized", buffers=buffers), out, workers=1).reach == (reach,)
        assert status(out).reach == (reach,)
        shares = {line.protection: line.outcomes for line in lines(out)}
        assert shares["none"]["silent"].value == shares["sidecar"]["repaired"].value == 1.0


def test_buffers_are_struck_and_put_back(tmp_path):
    """Also those that are not saved: three flips are beyond a budget of two words, mostly."""
    given = spec("masked", buffers=True).as_dict()
    given["faults"]["flip"] = {"kind": "bitflip", "count": 3, "only": ["mask"]}
    run(Spec.of(given, HERE), tmp_path, workers=1)
    outcomes = {
        row.task.protection.name: row.outcomes for row in Store(tmp_path).statistics().sorted()
    }
    assert set(outcomes["none"]) == {"s"}
    assert set(outcomes["sidecar"]) <= {"d", "r"}
    assert "d" in outcomes["sidecar"]


@pytest.mark.parametrize("buffers", [True, False])
@pytest.mark.parametrize(
    ("how", "changed"), [("in place", "runs"), ("anew", "runs"), ("moved", "weight")]
)
def test_a_metric_leaves_the_network_where_it_is(tmp_path, how, changed, buffers):
    """What it changes would be damage that nothing repairs; what it moves would not be struck."""
    metric = "tests.campaign.test_networks:run_once"
    source = {"arguments": {"how": how}, "buffers": buffers, "metric": metric}
    message = (
        rf"^\[networks.n\]: the metric {metric} changes {changed}, which trials would take for"
    )
    with pytest.raises(CampaignError, match=message):
        run(spec("Counting", **source), tmp_path / "a", workers=1)
    source["arguments"] = {"how": "not"}
    run(spec("Counting", **source), tmp_path / "b", workers=1)
    assert {line.outcomes["miscorrected"].value for line in lines(tmp_path / "b")} == {0.0}


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_network_keeps_nothing_of_damaged_runs(tmp_path, workers):
    """Where that would be: a flip in one trial would be a lower score in all that come after it."""
    given = spec("Remembering", metric="tests.campaign.test_networks:run_once").as_dict()
    given["faults"]["flip"]["count"] = 5
    with pytest.raises(CampaignError, match="keeps something of damaged runs, other than in"):
        run(Spec.of(given, HERE), tmp_path, workers=workers)


def test_a_sparse_buffer_is_left_out_as_elsewhere(tmp_path):
    metric = "tests.campaign.test_networks:on_graph"
    source = {"arguments": {"kind": "to_sparse"}, "metric": metric}
    for buffers in (None, False):
        given = source if buffers is None else source | {"buffers": buffers}
        run(spec("Graph", **given), tmp_path / str(buffers), workers=1)
        shares = {line.protection: line.outcomes for line in lines(tmp_path / str(buffers))}
        assert shares["sidecar"]["repaired"].value == 1.0
    with pytest.raises(SpecError, match=r"^\[networks.n\]: edges is torch\.sparse_coo: only"):
        run(spec("Graph", **source, buffers=True), tmp_path / "asked for", workers=1)


@pytest.mark.parametrize("kind", ["to_sparse_csr", "quantized", "meta"])
def test_a_buffer_that_cannot_be_compared_is_refused_by_its_name(tmp_path, kind):
    with pytest.raises((SpecError, CampaignError), match=r"^\[networks.n\]: "):
        run(spec("Graph", arguments={"kind": kind}, buffers=False), tmp_path, workers=1)


def test_statistics_in_buffers_are_left_out_and_it_is_said(tmp_path, command):
    run(spec("normalized"), tmp_path, workers=1)
    said = "n: 72 of 808 bytes (8.91 %) are neither struck nor protected, being in buffers."
    for name in ("status", "report"):
        assert command("campaign", name, tmp_path)[1].count(said) == 1
        told = json.loads(command("campaign", name, tmp_path, "--json")[1])
        assert told.get("campaigns", [told])[0]["reach"] == [
            {"network": "n", "struck": 736, "buffers": 72, "packed": 0}
        ]
    assert said in campaign_sheets(tmp_path)[0].about


@pytest.mark.parametrize(
    ("buffers", "share"), [(72, "8.91"), (200_000, "99.6"), (10**9, "99.9999")]
)
def test_shares_of_bytes_are_in_per_cent(buffers, share):
    assert f"bytes ({share} %) are neither" in Reach("n", 736, buffers, 0).said


def test_buffers_that_are_memory_of_weights_are_struck_with_them(tmp_path):
    for buffers, reach in ((False, Reach("n", 672, 172, 0)), (True, Reach("n", 844, 0, 0))):
        out = tmp_path / str(buffers)
        source = {"arguments": {"view": False}, "buffers": buffers}
        assert run(spec("Sharing", **source), out, workers=1).reach == (reach,)


def test_what_shares_memory_in_another_order_is_not_taken_apart(tmp_path):
    """One fault is in both, which no copy of one of them would have."""
    message = r"^\[networks.n\]: turned lies in the memory of another tensor, in another order: "
    with pytest.raises(SpecError, match=message):
        run(spec("Sharing", {"view": True}), tmp_path, workers=1)


@pytest.mark.parametrize("packed", [41, 1000])
def test_weights_in_objects_that_hide_them_are_refused(packed, tmp_path):
    message = r"\[networks.n\]: most of its bytes are in attributes that are neither.* \(packed.0\)"
    with pytest.raises(SpecError, match=message):
        run(spec("Packed", {"packed": packed}), tmp_path, workers=1)


def test_what_little_is_hidden_is_said(tmp_path):
    [reach] = run(spec("Packed", {"packed": 10}), tmp_path, workers=1).reach
    assert reach == Reach("n", 40, 0, 10)
    assert "10 of 50 bytes (20 %)" in reach.said
    assert reach.said.endswith("being in other attributes.")
    assert Reach("n", 40, 5, 10).said.endswith("being in buffers or other attributes.")
    assert Reach("n", 40, 0, 0).said == ""


def test_what_builds_a_network_gives_a_module(tmp_path):
    with pytest.raises(CampaignError, match=r"tensors gives a dict, not a torch\.nn\.Module"):
        run(spec("tensors"), tmp_path, workers=1)
