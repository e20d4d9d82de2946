import torch

from parimend.training.state import State


def run_of():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    return model, torch.optim.Adam(model.parameters())


def step(model, optimizer):
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()


def test_the_state_that_a_step_makes_is_found_once():
    model, optimizer = run_of()
    state = State(model, [optimizer])
    assert state.find()
    assert list(state.tensors) == [name for name, _ in model.named_parameters()]
    step(model, optimizer)
    assert state.find()
    assert len(state.tensors) == 16
    assert state.tensors["1.bias (exp_avg)"] is optimizer.state[model[1].bias]["exp_avg"]
    step(model, optimizer)
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
    assert not state.find()
    assert state.moved() == set()


def test_what_damage_cannot_do_is_seen():
    changes = (
        (lambda data: data.clone(), {"0.weight"}),
        (lambda data: data.double(), {"0.weight"}),
        (lambda data: data.view(3, 4), set()),  # of the same memory
        (lambda data: data.as_strided((4, 3), (1, 4)), set()),
    )
    for change, moved in changes:
        model, optimizer = run_of()
        state = State(model, [optimizer])
        state.find()
        model[0].weight.data = change(model[0].weight.data)
        assert state.moved() == moved
        assert state.find()
        assert not state.find()
        assert state.moved() == set()


def test_tensors_that_are_replaced_or_grow_are_found():
    model, optimizer = run_of()
    model.none = torch.nn.Parameter(torch.empty(0))
    state = State(model, [optimizer])
    state.find()
    model.none.data = torch.ones(3)
    assert state.find()
    new = torch.nn.Parameter(model[1].bias.detach())  # of the same memory
    model[1].bias = new
    assert not state.find()
    assert state.tensors["1.bias"] is new
    model.more = torch.nn.Parameter(torch.ones(1))
    assert state.find()
    assert "more" in state.tensors


def test_what_is_left_is_not_looked_at_any_more():
    model, optimizer = run_of()
    state = State(model, [optimizer])
    state.find()
    state.leave({"1.bias"})
    assert state.find()
    assert "1.bias" not in state.tensors
    model[1].bias.data = torch.zeros(2)
    assert state.moved() == set()


def test_only_tensors_with_memory_of_their_own_are_state():
    model, optimizer = run_of()
    weight, bias = model[0].weight, model[0].bias
    optimizer.state[weight] = {"sparse": torch.ones(4).to_sparse(), "step": 3, "sum": torch.ones(4)}
    optimizer.state[bias] = [torch.ones(4)]
    optimizer.state[torch.ones(2)] = {"sum": torch.ones(2)}
    state = State(model, [optimizer])
    state.find()
    assert [name for name in state.tensors if "(" in name] == [
        "0.weight (sum)",
        "parameter 2 (sum)",
    ]


def test_shards_are_looked_at_where_they_are():
    class Shard(torch.nn.Parameter):
        """A parameter of which another process holds the rest."""

        device_mesh = "two processes"

        def to_local(self):
            return self.detach()[:2]

    model, optimizer = run_of()
    model[0].weight = Shard(torch.ones(4, 3))
    state = State(model, [optimizer])
    assert state.find()
    assert state.tensors["0.weight"].shape == (2, 3)
    assert not state.find()
    model[0].weight.data = torch.ones(6, 3)
    assert state.find()
