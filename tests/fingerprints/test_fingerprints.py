"""Fingerprints: compared with sums in plain integers, and with what they are for."""

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from samples import SAMPLES

import parimend as pm
from parimend.codes.power import PowerSums
from parimend.errors import FormatError, MismatchError, SpecError, WordError
from parimend.fingerprints import sums
from parimend.formats import layout_of

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "fingerprint.json").read_text())


def plain_sums(data):
    """The sums of bytes, in Python's integers."""
    code = PowerSums(n=1 << 20, m=4)
    padded = data + bytes(-len(data) % 4)
    sums = [0] * 4
    for i, word in enumerate(np.frombuffer(padded, "<u4").tolist()):
        rows, values = code.column(i)
        for j, value in zip(rows.tolist(), values.tolist(), strict=True):
            sums[j] = (sums[j] + word * value) % code.prime
    return tuple(sums)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.float64])
@pytest.mark.parametrize("shape", [(7, 5), (1,), (), (0, 3), (300,)])
def test_sums(dtype, shape):
    torch.manual_seed(0)
    tensor = torch.randint(-99, 99, shape).to(dtype)
    [found] = pm.fingerprint({"w": tensor}).tensors.values()
    assert found.sums == plain_sums(
        tensor.flatten().contiguous().view(torch.uint8).numpy().tobytes()
    )
    assert found.shape == shape


def test_golden():
    """Fingerprints are kept and sent: what they are must never change.

    They are of version 1; since then archives are read as what they hold, and nothing else changed.
    """
    words = torch.arange(5000, dtype=torch.int32) * 40503
    model = {"a": words, "b": words[:777].to(torch.uint8), "c": words.reshape(50, 100).float()}
    made = pm.fingerprint(model)
    assert json.loads(made.to_json()) == {**GOLDEN["fingerprint"], "version": 2}
    old = pm.Fingerprint.from_json(json.dumps(GOLDEN["fingerprint"]))
    with pytest.raises(FormatError, match=r"versions 2 and 1 cannot be compared: take both again"):
        made.compare(old)
    assert made.digest == GOLDEN["digest"]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_four_wrong_words_are_noticed(data):
    count = data.draw(st.integers(1, 5000))
    words = np.random.default_rng(count).integers(0, 1 << 32, count, dtype=np.uint32)
    places = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=4, unique=True))
    before = pm.fingerprint({"w": torch.from_numpy(words.copy())})
    for at in places:
        words[at] ^= data.draw(st.integers(1, (1 << 32) - 1))
    found = before.compare(pm.fingerprint({"w": torch.from_numpy(words)}))
    assert [(each.name, each.kind) for each in found.differences] == [("w", "bits")]


@pytest.mark.parametrize("change", ["rows", "halves", "tiles", "sign", "shift"])
def test_orderly_changes_are_noticed(change):
    torch.manual_seed(0)
    w = torch.randn(64, 64)
    other = {
        "rows": lambda: w[[1, 0, *range(2, 64)]],
        "halves": lambda: torch.cat([w[32:], w[:32]]),
        "tiles": lambda: w.view(-1, 8).flip(0).view(64, 64),
        "sign": lambda: -w,
        "shift": lambda: w.roll(1),
    }[change]()
    assert pm.fingerprint({"w": w}) != pm.fingerprint({"w": other})


def test_a_model_and_its_files(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(9, 40), torch.nn.BatchNorm1d(40))
    model[1].register_buffer("scratch", torch.ones(3), persistent=False)
    state = model.state_dict()
    print_ = pm.fingerprint(model)
    assert set(print_.tensors) == set(state)
    save_file(state, tmp_path / "model.safetensors")
    torch.save(state, tmp_path / "model.pt")
    np.savez(tmp_path / "model.npz", **{name: t.numpy() for name, t in state.items()})
    for name in ("model.safetensors", "model.pt", "model.npz"):
        assert pm.fingerprint(tmp_path / name) == print_, name
    for number, name in enumerate(state):
        save_file({name: state[name]}, tmp_path / f"part-{number}.safetensors")
    (tmp_path / "model.safetensors").unlink()
    assert pm.fingerprint(tmp_path) == print_  # the other formats hold the same once more
    save_file(state, tmp_path / "consolidated.safetensors")
    with pytest.raises(FormatError, match=r"consolidated\.safetensors and .* both have a tensor"):
        pm.fingerprint(tmp_path)
    shards = {name: f"part-{number}.safetensors" for number, name in enumerate(state)}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    assert pm.fingerprint(tmp_path) == print_
    other = tmp_path / "model.safetensors.index.fp16.json"
    other.write_text(index.read_text())
    with pytest.raises(MismatchError, match=r"several indices, .*fp16.*: name one of them"):
        pm.fingerprint(tmp_path)
    assert pm.fingerprint(index) == print_
    assert pm.fingerprint(torch.nn.DataParallel(model)) == print_
    with torch.no_grad():
        model[0].weight[3, 4] += 1
        model[1].running_mean[7] -= 1
    found = pm.fingerprint(model).compare(print_)
    assert {each.name for each in found.differences} == {"0.weight", "1.running_mean"}
    assert "2 differ" in repr(found)
    assert pm.fingerprint(model, only="1.weight") == print_.chosen("1.weight")


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_every_format(name, tmp_path, rng):
    path = SAMPLES[name](tmp_path, rng)
    only = "!objects" if name == "npz" else None
    before = pm.fingerprint(path, only=only)
    content = bytearray(path.read_bytes())
    with path.open("rb") as file:
        largest = max(layout_of(file, path).entries, key=lambda entry: entry.end - entry.begin)
    content[(largest.begin + largest.end) // 2] ^= 4
    path.write_bytes(content)
    if name == "npz":  # numpy sees it by a CRC of its own
        with pytest.raises(FormatError, match=rf"{largest.name} in {path} cannot be .*Bad CRC-32"):
            pm.fingerprint(path, only=only)
        return
    found = before.compare(pm.fingerprint(path)).differences
    also = {"tied"} if name == "torch" else set()
    assert {(each.name, each.kind) for each in found} == {
        (each, "bits") for each in {largest.name, *also}
    }


def saved(value, path, **options):
    """What is kept of a value when it is in a file of ``torch.save``."""
    torch.save(value, path / "value.pt", **options)
    return pm.fingerprint(path / "value.pt")


def ways_to_lie():
    """The same tensors, laid out in memory in all sorts of ways; all of one name and shape."""
    w = torch.arange(24.0).reshape(2, 3, 4)
    flat = torch.cat([torch.ones(5), w.flatten(), torch.ones(3)])
    yield {"w": w}
    yield {"w": w.permute(2, 0, 1).contiguous().permute(1, 2, 0)}
    yield {"w": flat[5:29].view(2, 3, 4)}
    yield {"w": torch.stack([w, -w], -1)[..., 0]}


@pytest.mark.parametrize("old", [False, True])
def test_archives_are_what_was_saved(old, tmp_path):
    """However it lay in memory: files keep storages, and a fingerprint is of tensors."""
    options = {"_use_new_zipfile_serialization": not old}
    expected = pm.fingerprint({"w": torch.arange(24.0).reshape(2, 3, 4)})
    for state in ways_to_lie():
        assert pm.fingerprint(state) == saved(state, tmp_path, **options) == expected
    model = torch.nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
    nested = {"model": model.state_dict(), "best": [torch.arange(3), {"of": torch.ones(2)}], "n": 3}
    assert saved(nested, tmp_path, **options) == pm.fingerprint(nested)
    assert set(saved(nested["best"], tmp_path, **options).tensors) == {"0", "1.of"}
    assert set(saved(torch.ones(3), tmp_path, **options).tensors) == {"array"}
    tied = {"a": model.weight, "b": model.weight.detach()}
    assert saved(tied, tmp_path, **options).tied == {"b": "a"}
    assert saved(nested, tmp_path, **options).chosen("model.*") == pm.fingerprint(
        tmp_path / "value.pt", only="model.*"
    )


def test_archives_of_one_storage_are_told_apart(tmp_path):
    flat, w = torch.arange(8.0), torch.arange(9.0).reshape(3, 3)
    c = torch.complex(torch.arange(3.0), torch.arange(3.0) + 1)
    states = [
        *({"q": flat[:4], "k": flat[4:]}, {"q": flat[4:], "k": flat[:4]}),
        *({"a": flat[:3]}, {"a": flat[3:6]}, {"a": flat[:6].view(2, 3)[:, :2]}, {"a": flat}),
        *({"a": w}, {"a": w.t()}, {"a": w.flatten()}, {"a": w, "b": w.t()}, {"a": w, "b": w[0]}),
        *({"a": c}, {"a": c.conj()}, {"a": c.imag}, {"a": c.conj().imag}),
    ]
    prints = [saved(state, tmp_path) for state in states]
    assert prints == [pm.fingerprint(state) for state in states]
    same = [(i, j) for i, one in enumerate(prints) for j in range(i) if one == prints[j]]
    assert same == []


def test_arrays_of_numpy_are_their_values(tmp_path):
    def of(array):
        np.save(tmp_path / "a.npy", array)
        np.savez(tmp_path / "a.npz", array=array)
        np.savez_compressed(tmp_path / "b.npz", array=array)
        found = [pm.fingerprint(tmp_path / name) for name in ("a.npy", "a.npz", "b.npz")]
        assert found[0] == found[1] == found[2]
        return found[0]

    a = np.arange(6, dtype="<f4").reshape(2, 3)
    live = pm.fingerprint({"array": torch.from_numpy(a)})
    assert of(a) == of(np.asfortranarray(a)) == of(a.astype(">f4")) == live
    record = np.zeros(2, [("x", "<f4"), ("n", "<i8")])
    others = [
        *(a, a.T, a.reshape(6), a.view("<i4"), a.view(">i4"), a.view("u1")),
        *(np.array(["abcd"]), np.array(["abcd"]).view("u1"), np.array([b"abcd"])),
        *(record, record.view([("y", "<f4"), ("n", "<i8")]), record.view("u1")),
        *(np.zeros((0, 3)), np.zeros(0), np.array(3.0), np.array([3.0]), np.array(3, "M8[D]")),
        *(np.ones(3, "<u8"), np.ones(3, np.longdouble)),
    ]
    prints = [of(array) for array in others]
    assert [i for i, one in enumerate(prints) for j in range(i) if one == prints[j]] == []


def test_numbers_that_share_bytes_are_not_bytes(tmp_path):
    x = torch.arange(8, dtype=torch.uint8).view(1, 8)
    save_file({"w": x}, tmp_path / "bytes.safetensors")
    save_file({"w": x.view(torch.float4_e2m1fn_x2)}, tmp_path / "pairs.safetensors")
    found = [pm.fingerprint(tmp_path / f"{name}.safetensors") for name in ("bytes", "pairs")]
    [told] = found[0].compare(found[1]).differences
    assert (told.kind, told.here, told.there) == ("dtype", "U8", "F4")
    assert found[1].tensors["w"].shape == (1, 16)


def test_what_cannot_be_loaded_is_not_compared(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch gives the first up, and looks long at the other
        quantized = torch.quantize_per_tensor(torch.arange(3.0), 0.1, 0, torch.qint8)
        with pytest.raises(WordError, match=r"q is torch\.qint8, which has no plain bytes"):
            saved({"q": quantized, "w": torch.ones(3)}, tmp_path)
        assert set(pm.fingerprint(tmp_path / "value.pt", only="!q").tensors) == {"w"}
        with pytest.raises(WordError, match=r"w is torch\.sparse_coo"):
            saved({"w": torch.eye(3).to_sparse()}, tmp_path)
    with pytest.raises(WordError, match="w is on the meta device"):
        saved({"w": torch.ones(3, device="meta")}, tmp_path)
    with pytest.raises(
        FormatError, match=r"value\.pt cannot be loaded .*Linear was not an allowed"
    ):
        saved(torch.nn.Linear(2, 2), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
        with pytest.raises(FormatError, match=r"script\.pt cannot be .*TorchScript archives"):
            pm.fingerprint(tmp_path / "script.pt")
    np.save(tmp_path / "o.npy", np.array([1, "a"], object), allow_pickle=True)
    with pytest.raises(FormatError, match=r"o\.npy cannot be loaded by numpy.*allow_pickle=True"):
        pm.fingerprint(tmp_path / "o.npy")


def test_without_tensors(tmp_path, capsys):
    save_file({}, tmp_path / "none.safetensors")
    none = pm.fingerprint(tmp_path / "none.safetensors")
    assert none == pm.fingerprint({}) == pm.fingerprint({"epoch": 3})
    assert none != pm.fingerprint({"w": torch.ones(2)})
    # Where a file is read by a library that finds none, it is its bytes.
    assert set(saved({"epoch": 3}, tmp_path).tensors) == {"bytes"}
    assert saved({"epoch": 3}, tmp_path) != saved({"epoch": 4}, tmp_path)


def test_kinds_of_differences():
    w = torch.arange(6.0)
    here = pm.fingerprint({"a": w, "b": w + 1, "c": w + 2, "d": w + 3})
    there = {"a": w.view(2, 3), "b": (w + 1).half(), "c": -w, "e": w + 3}
    found = here.compare(pm.fingerprint(there))
    assert [each.row[:2] for each in found.differences] == [
        *(("a", "shape"), ("b", "dtype"), ("c", "bits")),
        *(("d", "missing"), ("e", "surplus")),
    ]
    assert [each.row[2:] for each in found.differences[:2]] == [("[6]", "[2, 3]"), ("F32", "F16")]
    assert found.as_dict()["equal"] is False
    assert here == pm.Fingerprint.from_json(here.to_json())
    assert here != pm.fingerprint(there)


def test_tied_weights():
    """Files keep memory once, under either name; but it has to be there, and be right."""
    w, b = torch.arange(6.0), torch.ones(2)
    tied = pm.fingerprint({"embed": w, "head": w, "b": b})
    for one in ({"embed": w}, {"head": w}, {"embed": w, "head": w.clone()}):
        assert tied == pm.fingerprint({**one, "b": b})
        assert pm.fingerprint({**one, "b": b}) == tied
    assert tied != pm.fingerprint({"b": b})
    assert tied != pm.fingerprint({"head": w + 1, "b": b})
    assert tied != pm.fingerprint({"embed": w, "head": w + 1, "b": b})
    three = pm.fingerprint({"a": w, "embed": w, "head": w})
    assert three.chosen(["embed", "head"]) == pm.fingerprint({"head": w})
    # Views of one memory that are not all of it are tensors of their own.
    assert set(pm.fingerprint({"x": w[:3], "y": w}).tied) == set()


def test_other_names_and_fused_tensors():
    q, k = torch.randn(4, 8), torch.randn(2, 8)
    sent = pm.fingerprint({"model.q": q, "model.k": k})
    fused = torch.cat([q, k])
    engine = {"q": fused[:4], "k": fused[4:]}
    assert pm.fingerprint(engine, names=lambda name: f"model.{name}") == sent
    assert pm.fingerprint(engine, names={"q": "model.q", "k": "model.k"}) == sent
    with pytest.raises(SpecError, match="calls both q and k same"):
        pm.fingerprint(engine, names=lambda name: "same")
    with pytest.raises(SpecError, match="the new name of q must be a text, not an int: 7"):
        pm.fingerprint(engine, names={"q": 7})
    with pytest.raises(SpecError, match="names must be other names by names, or a function"):
        pm.fingerprint(engine, names="model.q")


def test_what_is_not_contiguous():
    w = torch.randn(6, 7)
    assert pm.fingerprint({"w": w.t()}) == pm.fingerprint({"w": w.t().contiguous()})


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_tensors_longer_than_a_code(dtype, monkeypatch):
    """Each section has sums of its own."""
    w = torch.randint(-99, 99, (1000,)).to(dtype)
    monkeypatch.setattr(sums, "_section", lambda part: 256)
    [found] = pm.fingerprint({"w": w}).tensors.values()
    monkeypatch.undo()
    parts = pm.fingerprint({str(i): each for i, each in enumerate(w.split(256))}).tensors
    assert found.sums == tuple(n for each in parts.values() for n in each.sums)
    assert len(found.sums) == 4 * math.ceil(1000 / 256)


def test_bad_input(tmp_path):
    for text in (
        "",
        "[]",
        "{}",
        '{"version": NaN}',
        '{"tensors": {"a": 1}, "tied": {}, "version": 1}',
        *(
            f'{{"tensors": {{"a": {{"dtype": {dtype}, "shape": {shape}, "sums": {numbers}}}}}, '
            '"tied": {}, "version": 1}'
            for dtype, shape, numbers in (
                ('"F32"', "[3.5]", "[1, 2, 3, 4]"),
                ('"F32"', "[-1]", "[1, 2, 3, 4]"),
                ('"F32"', '["3"]', "[1, 2, 3, 4]"),
                ('"F32"', "[3]", "[1, 2, 3]"),
                ('"F32"', "[3]", "[]"),
                ('"F32"', "[3]", "[1, 2, 3, true]"),
                ("7", "[3]", "[1, 2, 3, 4]"),
                ('"F32"', '""', "[1, 2, 3, 4]"),
                ('"F32"', f"[{10**40}]", "[1, 2, 3, 4]"),
                ('"F32"', "[3]", f"[1, 2, 3, {2**40}]"),
            )
        ),
    ):
        with pytest.raises(FormatError, match="is no fingerprint: make one"):
            pm.Fingerprint.from_json(text, "a.json")
    one = pm.fingerprint({"w": torch.ones(2)})
    with pytest.raises(FormatError, match="versions 2 and 3 cannot be compared"):
        one.compare(replace(one, version=3))
    with pytest.raises(WordError, match="no tensor matches"):
        pm.fingerprint({"w": torch.ones(2)}, only="x")
    with pytest.raises(WordError, match=r"w is torch\.sparse"):
        pm.fingerprint({"w": torch.ones(2, 2).to_sparse()})
    for name in "ab":
        save_file({"w": torch.ones(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(
        FormatError, match=r"a\.safetensors and .*b\.safetensors both have a tensor w"
    ):
        pm.fingerprint(tmp_path)
    with pytest.raises(TypeError):
        hash(one)


def test_command(tmp_path, capsys):
    from parimend.cli import main

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["fingerprint", *map(str, arguments)])
        return end.value.code or 0, capsys.readouterr().out

    tensors = {"a": torch.arange(9.0), "b": torch.ones(3)}
    save_file(tensors, tmp_path / "one.safetensors")
    torch.save(tensors, tmp_path / "two.pt")
    code, out = run(tmp_path / "one.safetensors", "--json")
    (tmp_path / "one.json").write_text(out)
    assert code == 0
    assert json.loads(out)["digest"] == pm.fingerprint(tensors).digest
    assert run(tmp_path / "one.json", tmp_path / "two.pt") == (0, "equal: 2 tensors\n")
    tensors["a"][4] = 7
    save_file(tensors, tmp_path / "three.safetensors")
    code, out = run(tmp_path / "one.safetensors", tmp_path / "three.safetensors")
    assert (code, "1 of 2 tensors differ" in out, "bits" in out) == (1, True, True)
    code, out = run(tmp_path / "one.json", tmp_path / "three.safetensors", "--json")
    assert (code, json.loads(out)["differences"][0]["name"]) == (1, "a")
    assert run(tmp_path / "one.json", tmp_path / "three.safetensors", "--only", "b")[0] == 0
    code, out = run(tmp_path / "one.json")
    assert (code, pm.fingerprint(tmp_path / "one.safetensors").digest in out) == (0, True)
    (tmp_path / "x.json").write_text("{}")
    assert run(tmp_path / "x.json")[0] == 2


def test_what_holds_no_tensors_beside_those_that_do_counts_by_its_bytes(tmp_path):
    """Folders of trainers hold states of random generators and arguments."""
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        torch.save({"w": torch.ones(3, 4)}, folder / "pytorch_model.bin")
        for other in ("rng_state.pth", "training_args.bin", "scheduler.pt"):
            torch.save({"other": other, "state": np.random.RandomState(0)}, folder / other)
    one, other = (pm.fingerprint(tmp_path / name) for name in ("a", "b"))
    assert one == other
    assert {"w", "rng_state.pth", "training_args.bin"} <= one.tensors.keys()
    torch.save({"state": np.random.RandomState(1)}, tmp_path / "b" / "rng_state.pth")
    assert [each.name for each in one.compare(pm.fingerprint(tmp_path / "b")).differences] == [
        "rng_state.pth"
    ]


def test_a_stored_fingerprint_that_was_damaged_is_not_compared():
    taken = pm.fingerprint({"w": torch.arange(50.0)})
    kept = {"digest": taken.digest, **json.loads(taken.to_json())}  # as the command prints it
    assert pm.Fingerprint.from_json(json.dumps(kept)) == taken
    kept["tensors"]["w"]["sums"][0] ^= 1
    with pytest.raises(FormatError, match=r"a\.json is damaged: its digest is not that of"):
        pm.Fingerprint.from_json(json.dumps(kept), "a.json")
    del kept["digest"]
    assert pm.Fingerprint.from_json(json.dumps(kept)) != taken
