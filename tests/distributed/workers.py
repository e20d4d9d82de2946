"""What two processes do, with gloo on the CPU; every function raises if something is wrong."""

import copy
import ctypes
import io
import mmap
import os
import time
import warnings
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh
from torch.nn.parallel import DistributedDataParallel

import parimend as pm
from parimend.carriers import Balance, Request
from parimend.errors import DamageError, MismatchError, SpecError, WordError
from parimend.outcomes import Verdict
from parimend.stores.shards import store_of


def run(rank, name, rendezvous):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=2,
        timeout=timedelta(minutes=2),
    )
    try:
        globals()[name](rank)
        dist.barrier()  # who leaves first takes the connections of the other with it
    finally:
        dist.destroy_process_group()
    # Threads of gloo may still let go of tensors. An interpreter that ends meanwhile takes the lock
    # away from them within C++, which aborts ("terminate called without an active exception").
    os._exit(0)


def network():
    torch.manual_seed(0)
    # 61 and 7 outputs: shards of different sizes.
    return torch.nn.Sequential(torch.nn.Linear(20, 61), torch.nn.ReLU(), torch.nn.Linear(61, 7))


def train(model, optimizer, steps, rank=None, first=0):
    for step in range(first, first + steps):
        data = torch.Generator().manual_seed(step)
        x, y = torch.randn(32, 20, generator=data), torch.randint(0, 7, (32,), generator=data)
        if rank is not None:  # each process its half
            x, y = x[rank::2], y[rank::2]
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def gathered(model):
    return {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
        for name, p in model.named_parameters()
    }


def plain(model):
    """A model in one piece with the same weights."""
    copied = network()
    copied.load_state_dict(gathered(model))
    return copied


def same(a, b):
    return all(torch.equal(t, b[k]) for k, t in a.items())


def agree(value):
    values = [None, None]
    dist.all_gather_object(values, value)
    return values[0] == values[1]


def strike(model, rank, count=4):
    """Corrupt weights of the local shards, other ones in each process."""
    with torch.no_grad():
        for parameter in model.parameters():
            local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            flat = local.view(-1)
            for i in range(min(count, flat.numel())):
                flat[(i * 5 + rank) % flat.numel()] = [0.25, float("nan"), 1e30, -0.125][i % 4]


def fsdp(rank):
    reference = network()
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-2)
    single = pm.constrain_(reference, optimizer, 30, every=1)
    train(reference, optimizer, 10)

    model = network()
    fully_shard(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    constraint = pm.constrain_(model, optimizer, 30, every=1)
    assert constraint.codes == single.codes
    train(model, optimizer, 10, rank)
    assert constraint.residual() < 1e-6
    for name, tensor in gathered(model).items():  # gradients are summed in another order
        assert torch.allclose(tensor, reference.get_parameter(name), atol=1e-3), name

    seal = constraint.seal_()
    assert agree(seal.to_bytes())
    assert max(seal.notes["moved"]) < 2e-3
    assert pm.check(model, seal).verdict is Verdict.CLEAN
    assert pm.check(plain(model), seal).verdict is Verdict.CLEAN  # the seal of the whole model
    before = gathered(model)
    strike(model, rank)
    found = pm.check(model, seal)
    assert found.verdict is Verdict.CORRECTABLE
    assert agree(found.changes)
    assert not same(gathered(model), before)
    assert pm.repair_(model, seal).verdict is Verdict.CORRECTED
    assert same(gathered(model), before)
    strike(model, rank, count=200)
    struck = [p.to_local().detach().clone() for p in model.parameters()]
    assert pm.repair_(model, seal).verdict is Verdict.UNCORRECTABLE
    for parameter, bits in zip(model.parameters(), struck, strict=True):
        assert torch.equal(parameter.to_local().view(torch.int32), bits.view(torch.int32))


def along_the_code(rank):
    """Gradients of shards lose what leads out of the code of the whole word."""
    torch.manual_seed(0)  # of even shards: torch flattens no others
    layers = torch.nn.Linear(20, 60), torch.nn.ReLU(), torch.nn.Linear(60, 8)
    model = torch.nn.Sequential(*layers)
    fully_shard(model)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1)
    constraint = pm.constrain_(model, optimizer, 30, every=1000)
    data = torch.Generator().manual_seed(0)
    x, y = torch.randn(32, 20, generator=data), torch.randint(0, 7, (32,), generator=data)

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(3)]
    assert losses[-1] < 0.5 * losses[0]
    assert constraint.residual() < 1e-5
    assert pm.check(model, constraint.seal_()).verdict is Verdict.CLEAN


def resumed(rank):
    def start():
        model = network()
        fully_shard(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return model, optimizer, pm.constrain_(model, optimizer, 30, every=3)

    model, optimizer, constraint = start()
    train(model, optimizer, 5, rank)
    state = copy.deepcopy((model.state_dict(), constraint.state_dict()))
    train(model, optimizer, 5, rank, first=5)
    seal = constraint.seal_().to_bytes()
    model, optimizer, constraint = start()
    model.load_state_dict(state[0])
    constraint.load_state_dict(state[1])
    train(model, optimizer, 5, rank, first=5)
    assert constraint.seal_().to_bytes() == seal


def healed_in_a_step(rank):
    """A weight that goes wrong in one process is put back there, by the checks of all."""
    model = network()
    fully_shard(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    armed = []

    def corrupt(*_):
        if armed and rank == 1:
            with torch.no_grad():
                model[0].weight.to_local()[2, 3] = float("inf")

    optimizer.register_step_post_hook(corrupt)
    constraint = pm.constrain_(model, optimizer, 100, every=1)
    train(model, optimizer, 30, rank)
    armed.append(True)
    train(model, optimizer, 1, rank, first=30)
    [event] = constraint.events
    assert agree(event)
    assert [(c.tensor, c.index) for c in event.changes] == [("0.weight", (31 + 2, 3))]
    assert constraint.residual() < 1e-6


def parallel(rank):
    """Replicas stay equal; what is wrong in one process stops the step in all."""
    model = DistributedDataParallel(network())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    constraint = pm.constrain_(model, optimizer, 30)
    healing = pm.heal_(model, optimizer)
    train(model, optimizer, 5, rank)
    assert constraint.residual() < 1e-6
    before = gathered(model.module)
    if rank == 1:
        with torch.no_grad():  # between two steps: put back, and the step is taken
            model.module[0].weight[1, 2] = 7.0
    train(model, optimizer, 1, rank, first=5)
    assert [event.kind for event in healing.events] == (["repaired"] if rank else [])
    assert not same(gathered(model.module), before)
    before = gathered(model.module)

    def spoil(module, inputs, output):
        if rank == 1:
            with torch.no_grad():
                module.weight[0, 0] = 1e10

    handle = model.module[0].register_forward_hook(spoil)
    train(model, optimizer, 1, rank, first=6)
    handle.remove()
    assert healing.events[-1].kind == "skipped"
    for name, tensor in gathered(model.module).items():  # projected again, so not to the bit
        assert torch.allclose(tensor, before[name], atol=1e-6)
    train(model, optimizer, 3, rank, first=7)
    weights = io.BytesIO()
    torch.save(gathered(model.module), weights)
    assert agree(weights.getvalue())
    seal = constraint.seal_()
    assert agree(seal.to_bytes())
    assert pm.check(model, seal).verdict is Verdict.CLEAN


def assert_healed(run, times):
    """That a run, called with whether it is struck, ends as if it were not, to the last bit."""
    right, events = run(False)
    assert events == []
    found, events = run(True)
    assert events == ["repaired"] * times
    assert same(found, right)


def healed_before_they_are_gathered(rank):
    def run(struck):
        model = network()
        fully_shard(model)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        with pm.heal_(model, optimizer) as healing:
            for step in range(4):
                if struck:
                    strike(model, rank)
                train(model, optimizer, 1, rank, first=step)
        return gathered(model), [event.kind for event in healing.events]

    assert_healed(run, times=4)


def healed_within_an_optimizer(rank):
    """`ZeroRedundancyOptimizer` keeps its state in an optimizer inside of it."""
    from torch.distributed.optim import ZeroRedundancyOptimizer  # compiles, which is deprecated

    def run(struck):
        model = DistributedDataParallel(network())
        parameters = model.parameters()
        optimizer = ZeroRedundancyOptimizer(parameters, torch.optim.Adam, lr=1e-2)
        with pm.heal_(model, optimizer) as healing:
            for step in range(4):
                if struck and step:
                    next(iter(optimizer.optim.state.values()))["exp_avg"].view(-1)[rank] = 1e9
                train(model, optimizer, 1, rank, first=step)
        return gathered(model.module), [event.kind for event in healing.events]

    assert_healed(run, times=3)


def lost_in_one_process(rank):
    """Who has lost nothing hears of it, too, and does not wait in a collective operation."""
    for tensor in ("weight", "state"):
        model = network()
        fully_shard(model)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        with pm.heal_(model, optimizer, errors=5):
            train(model, optimizer, 2, rank)
            weight = model[0].weight
            struck = weight if tensor == "weight" else optimizer.state[weight]["exp_avg"]
            if rank == 1:
                struck.detach().to_local()[:] = 7.0
            said = "0.weight" if rank else "another process has damage since step 2"
            with pytest.raises(DamageError, match=said):
                train(model, optimizer, 1, rank, first=2)


def seals_that_differ(rank):
    """A seal that is damaged in one process is no matter of that process alone."""
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(1)
    tensors = {name: distribute_tensor(torch.randn(40, 50), mesh, [Shard(0)]) for name in "ab"}
    for carrier in ("sidecar", "lowbits", "real"):
        seal = pm.protect_(tensors, 5, carrier)
        damaged, scrubber = copy.deepcopy(seal), pm.Scrubber(tensors, seal)
        target = damaged.words[0].target.copy()
        target[0] += 1
        words = (replace(damaged.words[0], target=target), *damaged.words[1:])
        mine = replace(damaged, words=words) if rank else seal
        for act in (pm.check, pm.repair_, pm.Scrubber):
            with pytest.raises(MismatchError, match="seals that the processes have are not the"):
                act(tensors, mine)
        scrubber._weights.seal = mine
        [event] = scrubber.sweep()
        assert event.kind == "unwatched"
        assert "load the seal again" in event.reason
        assert pm.check(tensors, seal).verdict is Verdict.CLEAN  # and nobody is ahead of the other


def read_only_in_one_process(rank):
    """Who can write hears of the one that cannot."""
    torch.manual_seed(1)
    mesh, full = init_device_mesh("cpu", (2,)), torch.randn(20, 30)
    seal = pm.protect_({"w": full}, 5)
    full[[2, 15], 3] += 1.0
    mine = full.chunk(2)[rank].clone()
    if rank == 1:
        page = mmap.mmap(-1, mine.nbytes)
        page.write(mine.numpy().tobytes())
        mine = torch.frombuffer(page, dtype=torch.float32).view(10, 30)
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(mine.data_ptr()), mine.nbytes, 1) == 0
    tensor = DTensor.from_local(mine, mesh, [Shard(0)])
    said = "w lies in memory that can only be read" if rank else "w cannot be written in another"
    with pytest.raises(WordError, match=said):
        pm.repair_({"w": tensor}, seal)
    assert len(pm.check({"w": tensor}, seal).changes) == 1  # what the other one can write is right


def carriers(rank):
    mesh = init_device_mesh("cpu", (2,))
    for carrier in ("sidecar", "lowbits", "real"):
        for placement in (Shard(0), Shard(1), Replicate()):
            torch.manual_seed(1)
            whole = {"a": torch.randn(41, 53), "b": torch.randn(1, 70), "c": torch.randn(2, 1)}
            tensors = {
                name: distribute_tensor(t.clone(), mesh, [placement]) for name, t in whole.items()
            }
            seal = pm.protect_(tensors, 20, carrier)
            assert agree(seal.to_bytes()), (carrier, placement)
            full = {name: t.full_tensor() for name, t in tensors.items()}
            assert pm.check(full, seal).verdict is Verdict.CLEAN
            if carrier == "sidecar":
                assert same(full, whole)
                assert seal.to_bytes() == pm.protect_(whole, 20, carrier).to_bytes()
                assert pm.refresh(tensors, seal).to_bytes() == seal.to_bytes()
            with torch.no_grad():
                local = tensors["a"].to_local()
                for i in range(5):
                    local[i, 2 * i + (rank if placement != Replicate() else 0)] += 3.0
            assert pm.repair_(tensors, seal).verdict is Verdict.CORRECTED, (carrier, placement)
            assert same({name: t.full_tensor() for name, t in tensors.items()}, full)


def cut_in_other_ways(rank):
    """What is not the same tensor everywhere, cut as PyTorch cuts, is refused by all processes."""
    torch.manual_seed(1)
    mesh, whole = init_device_mesh("cpu", (2,)), torch.randn(61, 6)
    seal = pm.protect_({"w": whole}, 5)

    def spread(shards, **of):
        return {"w": DTensor.from_local(shards[rank].clone(), mesh, [Shard(0)], **of)}

    of = {"shape": whole.shape, "stride": whole.stride()}
    said = r"w torch.float32 \[60, 6\] where another one has w torch.float32 \[62, 6\]"
    for shards, more, why in (
        (whole.chunk(2), {}, said),  # each takes the other one to be as large as itself
        (whole.split([40, 21]), of, r"w \[61, 6\] has a shard \[40, 6\] where torch.chunk gives"),
    ):
        tensors = spread(shards, **more)
        for act in (lambda t: pm.protect_(t, 5), lambda t: pm.check(t, seal)):
            with pytest.raises(WordError, match=why):
                act(tensors)
    assert pm.check(spread(whole.chunk(2), **of), pm.protect_(spread(whole.chunk(2), **of), 5)).ok
    tensors = spread(whole.chunk(2), **of)
    with pytest.raises(WordError, match=r"has more .* where another one has nothing"):
        pm.protect_({**tensors, "more": tensors["w"].mul(2)} if rank else tensors, 5)


def words_of_memory(rank):
    """A word of a process's memory may hold elements of two words of the whole tensor, or more."""
    mesh, mine = init_device_mesh("cpu", (2,)), torch.Generator().manual_seed(rank)
    torch.manual_seed(1)
    for dtype in (torch.bfloat16, torch.int8, torch.float32):
        full = (40 * torch.randn(2, 999)).to(dtype)
        for placement in (Shard(0), Shard(1)):
            tensor = distribute_tensor(full.clone(), mesh, [placement])
            seal = pm.protect_({"w": tensor}, 10)
            assert agree(seal.to_bytes())
            for struck in (0, 1):
                words = tensor.to_local().view(-1).view(torch.uint8)
                chosen = torch.randperm(len(words) // 4, generator=mine)[:10].tolist()
                for word in chosen if rank == struck else ():
                    words[4 * word : 4 * word + 4] ^= 0x55
                assert pm.repair_({"w": tensor}, seal).verdict is Verdict.CORRECTED
                assert torch.equal(tensor.full_tensor(), full)


def planes(rank):
    """Words of some bits, of sharded tensors."""
    mesh = init_device_mesh("cpu", (2,))
    for placement in (Shard(0), Shard(1)):
        torch.manual_seed(1)
        full = {"a": torch.randn(41, 53), "b": torch.randn(10, 70).bfloat16()}
        tensors = {name: distribute_tensor(t, mesh, [placement]) for name, t in full.items()}
        shares = [(9, {"a": 0xFF800000, "b": 0xFF80}), (4, {"a": 0x007FFFFF, "b": 0x7F})]
        balance = Balance.of(store_of(tensors).whole(), shares)
        request = Request(balance.errors, pm.Sidecar(), balance=balance)
        seal = pm.protect_(tensors, SimpleNamespace(request=request))
        assert agree(seal.to_bytes())
        assert pm.check(full, seal).verdict is Verdict.CLEAN
        with torch.no_grad():
            cells = tensors["a"].to_local().view(torch.int32)
            cells[:3, 2] ^= 1 << 30
            cells[4, 5 + rank] ^= 1 << 3
        report = pm.repair_(tensors, seal)
        assert report.verdict is Verdict.CORRECTED
        assert len(report.changes) == 6 + 2
        assert same({name: t.full_tensor() for name, t in tensors.items()}, full)


def mixed(rank):
    """Different dimensions may be sharded; but all tensors over the same processes, or none."""
    mesh = init_device_mesh("cpu", (2,))
    a = distribute_tensor(torch.randn(40, 50), mesh, [Shard(0)])
    b = distribute_tensor(torch.randn(40, 50), mesh, [Shard(1)])
    seal = pm.protect_({"a": a, "b": b}, 5, pm.Real(rows=100))
    assert pm.check({"a": a.full_tensor(), "b": b.full_tensor()}, seal).verdict is Verdict.CLEAN
    for c in (torch.randn(3), distribute_tensor(torch.randn(3, 3), mesh, [Replicate()])):
        with pytest.raises(WordError, match="c is not sharded in the same way as a"):
            pm.protect_({"a": a, "c": c}, 5)


def tied(rank):
    """What several names share is protected once, also where a process holds nothing of it."""
    for rows in (60, 1):  # of one row the second process has none
        model = torch.nn.Sequential(*(torch.nn.Linear(20, rows, bias=False) for _ in range(3)))
        model[1].weight = model[0].weight
        fully_shard(model)
        for there in (model, model.state_dict()):
            seal = pm.protect_(there, 3)
            assert [part.name for part in seal.words[0].parts] == ["0.weight", "2.weight"]
            if rank == 0:
                with torch.no_grad():
                    model[1].weight.to_local()[0, :3] += 1.0
            assert pm.repair_(there, seal).verdict is Verdict.CORRECTED


def gathered_for_a_forward(rank):
    """What is sharded is not called clean because of a copy of it."""
    model = network()
    fully_shard(model[0])
    fully_shard(model)
    seal = pm.protect_(model, 40)
    x = torch.ones(1, 20)
    with torch.no_grad():
        model(x)
    for act in (pm.check, pm.repair_):
        with pytest.raises(WordError, match=r"weights of the model for a forward.*reshard\(\)"):
            act(model, seal)
    model.reshard()
    strike(model, rank)
    assert pm.repair_(model, seal).verdict is Verdict.CORRECTED
    model(x).sum().backward()
    assert pm.check(model, seal).verdict is Verdict.CLEAN


def strike_or_raise(model, rank):
    strike(model, rank)
    if not rank:
        raise KeyError


def scrubbed(rank):
    """Processes look together, or not at all."""
    model = network()
    fully_shard(model)
    scrubber = pm.Scrubber(model, pm.protect_(model, 40))
    with pytest.raises(SpecError, match="is sharded over processes"):
        scrubber.start()
    before = gathered(model)
    strike(model, rank)
    [event] = scrubber.sweep()
    assert event.kind == "repaired"
    assert same(gathered(model), before)
    with scrubber.update(), torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    assert scrubber.sweep() == []
    with pytest.raises(MismatchError if rank else KeyError), scrubber.update():
        strike_or_raise(model, rank)
    assert [event.kind for event in scrubber.sweep()] == ["repaired"]

    whole = network()  # and sharded after its scrubber was started
    told = []
    seal = pm.protect_(whole, 5)
    with warnings.catch_warnings(), pm.Scrubber(whole, seal, share=1.0, on_event=told.append):
        warnings.simplefilter("ignore")
        fully_shard(whole)
        end = time.monotonic() + 20
        while "unwatched" not in (kinds := [e.kind for e in told]) and time.monotonic() < end:
            time.sleep(0.01)
    # A look in the middle of sharding finds some weights sharded and others not.
    assert set(kinds) - {"failed"} == {"unwatched"}


def fingerprints(rank):
    """The same for models in one piece and over processes; few numbers travel."""
    reference = pm.fingerprint(network())
    model = network()
    fully_shard(model)
    sums, gathers = counted("all_reduce"), counted("all_gather_into_tensor")
    assert pm.fingerprint(model) == reference
    assert (sums, gathers) == ([4 * 4], [])  # four numbers of each of four tensors
    local = model[0].weight.to_local()
    if rank == 1:
        with torch.no_grad():
            local[2, 3] += 1
    found = reference.compare(pm.fingerprint(model))
    assert [(each.name, each.kind) for each in found.differences] == [("0.weight", "bits")]
    assert agree(found.to_json())

    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(2)
    whole = {
        "rows": torch.randn(41, 53),
        "columns": torch.randn(41, 53).bfloat16(),
        "odd": torch.randint(-99, 99, (7, 3, 5)).to(torch.int8),
        "few": torch.randn(1, 70),
        "same": torch.randn(33, 3),
    }
    ways = {"rows": Shard(0), "columns": Shard(1), "odd": Shard(1), "few": Shard(0)}
    spread = {
        name: distribute_tensor(t.clone(), mesh, [ways.get(name, Replicate())])
        for name, t in whole.items()
    }
    expected = pm.fingerprint({**whole, "plain": whole["odd"]})
    assert pm.fingerprint({**spread, "plain": whole["odd"]}) == expected
    assert pm.fingerprint(spread, only="columns") == expected.chosen("columns")
    if rank == 1:  # every process tells of its own replica
        with torch.no_grad():
            spread["same"].to_local()[5] = 0
    one = torch.randn(1, 20)  # of one row the second process has none
    row, other = (distribute_tensor(one.clone(), mesh, [Shard(0)]) for _ in range(2))
    found = pm.fingerprint({"a": row, "b": row, "c": other, "d": other})
    assert found == pm.fingerprint({"a": one, "b": one, "c": (same := one.clone()), "d": same})
    assert dict(found.tied) == {"b": "a", "d": "c"}
    names = [
        each.name for each in pm.fingerprint(whole).compare(pm.fingerprint(spread)).differences
    ]
    assert names == (["same"] if rank else [])


def counted(name):
    """The sizes of what a collective operation is called with from now on."""
    sizes, operation = [], getattr(dist, name)

    def count(tensor, *arguments, **options):
        sizes.append(tensor.numel())
        return operation(tensor, *arguments, **options)

    setattr(dist, name, count)
    return sizes
