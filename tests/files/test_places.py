"""Files of a set that have the names of others, lie in their places, or hold what others held."""

import json
import os
import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from parimend import check_file, load_file, load_folder, protect_file, repair_file, verify
from parimend.errors import DamageError, MismatchError, SealError
from parimend.files import check_all, seals_of, sidecar_of
from parimend.outcomes import Verdict
from tests.files.conftest import damage, flip

KEPT = "kept.npy"
NAMES = ("m.npy", "o.npy", "sub/m.npy", "sub/o.npy", "sub/sub/m.npy")


def save(folder, names):
    """Arrays of one shape, each of its own number."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, np.full(300, number, np.float32))


def looked_at(folder, **where):
    return {
        Path(file.path).relative_to(folder).as_posix() for file in check_file(folder, **where).files
    }


def exchange(one, other):
    contents = one.read_bytes(), other.read_bytes()
    other.write_bytes(contents[0])
    one.write_bytes(contents[1])


def problems(folder, path=None, **where):
    report = check_file(path or folder, **where)
    return {
        Path(file.path).relative_to(folder).as_posix(): file.problem
        for file in report.files
        if not file.ok
    }


@settings(max_examples=12, deadline=None)
@given(
    st.sets(st.sampled_from(NAMES)),
    st.sets(st.sampled_from(NAMES)),
    st.sets(st.sampled_from(NAMES)),
    st.lists(st.sampled_from(NAMES), max_size=2),
)
@pytest.mark.parametrize("is_apart", [True, False])
def test_whatever_is_lost_no_files_are_made_up(is_apart, files, seals, damaged, exchanged):
    """Names are read from seals, and seals may be found by a name that several files have."""
    with TemporaryDirectory() as place:
        folder, apart = Path(place, "model"), Path(place, "seals")
        save(folder, [KEPT, *NAMES])
        where = {"seal_dir": apart} if is_apart else {}
        made = protect_file(folder, 2, **where)
        sides = {Path(one.path).relative_to(folder).as_posix(): Path(one.sidecar) for one in made}
        for name in files:
            (folder / name).unlink()
        for name in damaged - files:
            (folder / name).write_bytes(b"?" * 1000)
        if len(exchanged) == 2:
            exchange(*(sides[name] for name in exchanged))
        for name in seals:
            sides[name].unlink()
        assert looked_at(folder, **where) == {KEPT, *NAMES}
        found, problems = seals_of(folder, where.get("seal_dir"))
        assert {*found, *problems} == {folder / name for name in (KEPT, *NAMES)}


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from(range(len(NAMES) + 1)), min_size=6, max_size=6))
def test_every_file_that_holds_what_another_one_held_is_told(sources):
    """Overwritten, exchanged, turned around: all contents are as sealed, but of other places."""
    names = [*NAMES, KEPT]
    with TemporaryDirectory() as place:
        folder, seals = Path(place, "model"), Path(place, "seals")
        save(folder, names)
        protect_file(folder, 2, seal_dir=seals)
        contents = [(folder / name).read_bytes() for name in names]
        for name, source in zip(names, sources, strict=True):
            (folder / name).write_bytes(contents[source])
        wrong = {name: names[i] for name, i in zip(names, sources, strict=True) if name != names[i]}
        told = problems(folder, seal_dir=seals)
        assert {*told} == {*wrong}
        for name, source in wrong.items():
            # The only file of its name is compared with the only seal of that name.
            assert name == KEPT or told[name].startswith(f"holds what was protected as {source},")


SHARDS = [f"model-{number:05}-of-00002.safetensors" for number in (1, 2)]
INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(tmp_path, rng):
    """(folder, seals elsewhere, shards of one length)."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in SHARDS:
        save_file({name: rng.standard_normal(300, dtype=np.float32)}, folder / name)
    (folder / INDEX).write_text(json.dumps({"weight_map": {name: name for name in SHARDS}}))
    protect_file(folder, 2, seal_dir=tmp_path / "seals")
    return folder, tmp_path / "seals", [folder / name for name in SHARDS]


def test_a_shard_that_was_overwritten_with_another_one(sharded):
    folder, seals, (one, other) = sharded
    original = other.read_bytes()
    shutil.copy(one, other)
    for path in (folder, folder / INDEX):
        [told] = problems(folder, path, seal_dir=seals).items()
        assert told[0] == SHARDS[1]
        assert f"holds what was protected as {SHARDS[0]}, and its own is lost" in told[1]
        for act in (verify, load_folder):
            for policy in ("raise", "repair"):
                with pytest.raises(DamageError, match=rf"{SHARDS[1]} is not known to be right"):
                    act(path, policy, seal_dir=seals)
    assert repair_file(folder, seal_dir=seals).verdict is Verdict.UNKNOWN
    other.write_bytes(original)
    assert problems(folder, seal_dir=seals) == {}
    assert [*load_folder(folder, seal_dir=seals)] == SHARDS


@pytest.mark.parametrize("count", [40, 3000])
def test_a_file_copied_over_one_of_its_size_and_header_is_known_by_its_content(
    tmp_path, rng, count
):
    """As ``cp last best``; the larger one has more wrong words than the budget, the other fewer."""
    folder, where = tmp_path / "model", {"seal_dir": tmp_path / "seals"}
    folder.mkdir()
    for name in ("best.npy", "last.npy"):
        np.save(folder / name, rng.standard_normal(count, np.float32))
    protect_file(folder, 210, **where)
    shutil.copy(folder / "last.npy", folder / "best.npy")
    [(name, told)] = problems(folder, **where).items()
    assert (name, told.partition(":")[0]) == (
        "best.npy",
        "holds what was protected as last.npy, and its own is lost",
    )
    assert repair_file(folder, **where).verdict is Verdict.UNKNOWN
    assert all(made.is_kept for made in protect_file(folder, 210, **where))
    Path(told.partition("if that is meant, remove ")[2]).unlink()
    assert problems(folder, **where) == {}


def test_what_is_meant_to_be_there_is_said_by_taking_its_old_seal_away(sharded):
    folder, seals, (one, other) = sharded
    shutil.copy(one, other)
    [told] = problems(folder, seal_dir=seals).values()
    Path(told.partition("if that is meant, remove ")[2]).unlink()
    assert problems(folder, seal_dir=seals) == {}


def test_a_moved_or_copied_set_is_as_it_was(sharded):
    folder, seals, _ = sharded
    copy = folder.parent / "above" / "copy"
    shutil.copytree(folder, copy)
    moved = folder.rename(folder.parent / "above" / "moved")
    for path in (copy, moved, copy.parent, copy / INDEX):
        assert check_file(path, seal_dir=seals).verdict is Verdict.CLEAN
    shutil.copy(copy / SHARDS[0], copy / SHARDS[1])  # and one of both is known apart
    assert [*problems(copy.parent, seal_dir=seals)] == [f"copy/{SHARDS[1]}"]


@pytest.mark.parametrize("is_apart", [True, False])
def test_renamed_folders_of_a_pipeline_are_missing_and_nothing_else(tmp_path, is_apart):
    folder = tmp_path / "model"
    where = {"seal_dir": tmp_path / "seals"} if is_apart else {}
    save(folder, ["m.npy", "o.npy", "unet/m.npy", "unet/o.npy"])
    protect_file(folder, 2, **where)
    (folder / "unet").rename(folder / "other")
    told = problems(folder, **where)
    assert {*told} == {"unet/m.npy", "unet/o.npy"}
    assert all(text.startswith("missing") for text in told.values())
    assert problems(folder / "other", **where) == {}


def test_files_of_one_content_are_each_in_their_places(tmp_path):
    folder, seals = tmp_path / "model", tmp_path / "seals"
    save(folder, NAMES)
    for name in NAMES[1:3]:
        shutil.copy(folder / NAMES[0], folder / name)
    protect_file(folder, 2, seal_dir=seals)
    assert check_file(folder, seal_dir=seals).verdict is Verdict.CLEAN
    assert check_file(folder / "sub", seal_dir=seals).verdict is Verdict.CLEAN


def test_a_small_file_in_a_renamed_folder_is_repaired(tmp_path, rng):
    save(tmp_path / "p", ["unet/a.npy", "vae/a.npy"])
    protect_file(tmp_path / "p", errors=200)
    shutil.copytree(tmp_path / "p" / "unet", tmp_path / "latest")
    path = tmp_path / "latest" / "a.npy"
    right = path.read_bytes()
    flip(path, rng, 150, start=len(right) - 1200)
    assert repair_file(path).verdict is Verdict.CORRECTED
    assert path.read_bytes() == right


@pytest.mark.parametrize("is_apart", [True, False])
def test_checkpoints_with_files_that_are_equal_in_all_of_them(tmp_path, is_apart):
    """As trainers save them; copies and links of one of them are no files in the wrong place."""
    out, where = tmp_path / "out", {"seal_dir": tmp_path / "seals"} if is_apart else {}
    save(out, ["model.npy", "step-5/model.npy", "step-9/model.npy"])
    np.save(out / "step-5" / "optimizer.npy", np.arange(200.0))
    for folder in (out, out / "step-5", out / "step-9"):
        np.save(folder / "arguments.npy", np.ones(100))
    protect_file(out, errors=3, **where)
    assert problems(out, **where) == {}
    shutil.copytree(out / "step-5", tmp_path / "deploy")
    assert "model.npy" not in problems(tmp_path / "deploy", **where)
    shutil.copytree(out / "step-9", out / "best")
    assert not [name for name in problems(out, **where) if name.startswith("best/model")]
    assert all("holds what" not in text for text in problems(out, **where).values())


def test_names_in_a_cache_are_links(tmp_path):
    """Two links are exchanged: their files are as they were."""
    folder, seals, blobs = tmp_path / "snapshot", tmp_path / "seals", tmp_path / "blobs"
    save(blobs, ["a1", "b2"])
    (folder / "sub").mkdir(parents=True)
    links = [folder / "m.npy", folder / "sub" / "m.npy"]
    for link, blob in zip(links, ("a1.npy", "b2.npy"), strict=True):
        link.symlink_to(blobs / blob)
    protect_file(folder, 2, seal_dir=seals)
    assert check_file(folder, seal_dir=seals).verdict is Verdict.CLEAN
    assert check_file(blobs / "a1.npy", seal_dir=seals).verdict is Verdict.CLEAN
    (links[0].rename(tmp_path / "link"), links[1].rename(links[0]))
    (tmp_path / "link").rename(links[1])
    assert {*problems(folder, seal_dir=seals)} == {"m.npy", "sub/m.npy"}
    links[0].unlink()
    links[0].symlink_to(blobs / "a1.npy")  # both are links to one of them now
    assert {*problems(folder, seal_dir=seals)} == {"sub/m.npy"}


def test_files_that_were_exchanged_with_their_sidecars(tmp_path):
    """Seals note the places of files in folders below."""
    folder = tmp_path / "model"
    names = ["unet/m.npy", "ema/m.npy", "vae/m.npy"]
    save(folder, names)
    protect_file(folder, 2)
    for suffix in ("", ".parimend"):
        exchange(*(folder / f"{name}{suffix}" for name in names[:2]))
    told = problems(folder)
    assert {*told} == {*names[:2]}
    assert told["unet/m.npy"] == (
        f"holds what was protected as ema/m.npy, and its own is in {folder / 'ema/m.npy'}: "
        "exchange them, with their seals; or, if that is meant, parimend protect "
        f"{folder}, with the options of before, notes it"
    )
    assert all(made.is_kept for made in protect_file(folder, 2))
    assert problems(folder) == {}


def test_files_that_were_exchanged_and_are_all_that_is_left(tmp_path):
    """Neither lies in its own place, and another one of their set is lost with its seal."""
    folder = tmp_path / "model"
    names = ["unet/m.npy", "ema/m.npy", "vae/m.npy"]
    save(folder, names)
    protect_file(folder, 2)
    shutil.rmtree(folder / "vae")
    for suffix in ("", ".parimend"):
        exchange(*(folder / f"{name}{suffix}" for name in names[:2]))
    told = problems(folder)
    assert {*told} == {*names}
    assert told["vae/m.npy"].startswith("missing: ")


@pytest.mark.parametrize(
    "names",
    [
        ["a.npy", "b.npy", "c.npy"],
        ["a/m.npy", "b/m.npy", "c/m.npy"],
        ["a/m.npy", "m.npy", "c/m.npy"],
        ["m.npy", "b/m.npy", "c/m.npy"],
        ["a/m.npy", "a/b/m.npy", "m.npy"],
    ],
)
def test_a_file_that_became_a_link_to_another_one(tmp_path, names):
    """It is not what was protected, though what it leads to is; and that stays as it is."""
    folder = tmp_path / "model"
    save(folder, names)
    protect_file(folder, 400)  # enough to make one the other
    one, other = (folder / name for name in names[:2])
    original = other.read_bytes()
    one.unlink()
    one.symlink_to(other)
    for act in (check_file, repair_file):
        told = {file.path: file for file in act(folder).files if not file.ok}
        assert {*told} == {str(one)}
        assert told[str(one)].verdict is Verdict.UNKNOWN
        assert told[str(one)].problem.startswith(f"holds what was protected as {names[1]}, and its")
        assert other.read_bytes() == original
    with pytest.raises(MismatchError, match=f"{one} leads to {other}, and its seal"):
        repair_file(one)
    assert other.read_bytes() == original
    # What is meant to be a link now has the seal of what it leads to.
    sidecar_of(one).unlink()
    assert check_file(folder).ok


@pytest.mark.parametrize("place", ["store/unet", "store", "."])
def test_a_file_that_was_moved_elsewhere_and_is_called_like_one_of_another_folder(tmp_path, place):
    """A link in its place leads to it; pipelines have a file of that name in many folders."""
    folder, store = tmp_path / "model", tmp_path / place
    save(folder, ["m.npy", "unet/m.npy"])
    protect_file(folder, 2)
    store.mkdir(parents=True, exist_ok=True)
    path, original = folder / "unet/m.npy", (folder / "unet/m.npy").read_bytes()
    path.rename(store / "m.npy")
    path.symlink_to(store / "m.npy")
    damage(store / "m.npy", -3, b"\1")
    assert check_file(folder).verdict is Verdict.CORRECTABLE
    assert repair_file(folder).verdict is Verdict.CORRECTED
    assert path.read_bytes() == original


def test_nothing_is_written_through_a_link_to_another_file_of_the_set(tmp_path):
    """Also where the seal of that file is lost, and its budget is enough to make it the other."""
    folder, seals = tmp_path / "model", tmp_path / "seals"
    names = ["a/m.npy", "b/m.npy", "c/m.npy"]
    save(folder, names)
    made = protect_file(folder, 400, seal_dir=seals)
    one, other = (folder / name for name in names[:2])
    Path(made[1].sidecar).unlink()
    one.unlink()
    one.symlink_to(other)
    original = other.read_bytes()
    for path in (folder, one):
        with suppress(MismatchError):
            assert repair_file(path, seal_dir=seals).verdict is Verdict.UNKNOWN
        assert other.read_bytes() == original


def test_files_of_one_folder_that_were_exchanged_with_their_sidecars(sharded):
    folder, _, shards = sharded
    protect_file(folder, 2)
    for suffix in ("", ".parimend"):
        exchange(*(path.with_name(path.name + suffix) for path in shards))
    assert {*problems(folder)} == {*SHARDS}
    protect_file(folder, 2)
    for suffix in ("", ".parimend"):
        shutil.copy(f"{shards[0]}{suffix}", f"{shards[1]}{suffix}")
    assert {*problems(folder)} == {SHARDS[1]}
    protect_file(folder, 2)
    assert problems(folder) == {}


def shard_names(folder, rng):
    """Files with names of tensors that are all their own, as shards have."""
    names = [f"m-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
    for name in names:
        save_file({name: rng.standard_normal(900, dtype=np.float32)}, folder / name)
    return names


def checkpoints(folder, rng):
    """Files that differ in nothing but their values."""
    names = ["1/m.npy", "2/m.npy", "3/m.npy"]
    for name in names:
        (folder / name).parent.mkdir()
        np.save(folder / name, rng.standard_normal(900).astype(np.float32))
    return names


@pytest.mark.parametrize("is_newer", [False, True])
@pytest.mark.parametrize("fill", [shard_names, checkpoints])
def test_files_that_were_exchanged_without_their_sidecars(tmp_path, rng, fill, is_newer):
    """Whoever sealed what is there now would seal the exchange."""
    names = fill(tmp_path, rng)
    protect_file(tmp_path, 2)
    one, other, last = (tmp_path / name for name in names)

    def times():
        for path in (one, other):
            shift = 100 if is_newer else -100
            at = sidecar_of(path).stat().st_mtime + shift
            os.utime(path, (at, at))

    original = one.read_bytes()
    exchange(one, other)
    times()
    told = problems(tmp_path)
    assert {*told} == {*names[:2]}
    assert told[names[0]] == (
        f"holds what was protected as {names[1]}, and its own is in {other}: exchange them; or, if "
        f"that is meant, put {sidecar_of(other)} beside it as its seal, and parimend protect "
        f"{tmp_path}, with the options of before, notes it"
    )
    assert problems(tmp_path).keys() == told.keys()
    assert repair_file(tmp_path).verdict is Verdict.UNKNOWN
    with pytest.raises(DamageError, match=f"holds what was protected as {names[1]}"):
        verify(tmp_path)
    # What is meant is said by exchanging the seals, too.
    exchange(sidecar_of(one), sidecar_of(other))
    protect_file(tmp_path, 2)
    assert problems(tmp_path) == {}
    # One that was copied over another one, whose own is lost.
    shutil.copy(last, other)
    times()
    [(name, text)] = problems(tmp_path).items()
    assert (name, text.partition(";")[0]) == (
        names[1],
        f"holds what was protected as {names[2]}, and its own is lost: fetch it",
    )
    other.write_bytes(original)
    assert problems(tmp_path) == {}


def test_what_is_no_file_of_the_set_is_only_looked_at(tmp_path, rng):
    names = checkpoints(tmp_path, rng)
    protect_file(tmp_path, 2)
    np.save(tmp_path / names[0], rng.standard_normal(900).astype(np.float32))
    assert "probably saved anew" in problems(tmp_path)[names[0]]
    with open(tmp_path / names[1], "r+b") as file:
        file.seek(200)
        file.write(rng.bytes(60))
    assert {*problems(tmp_path)} == {*names[:2]}
    assert not any("holds what" in text for text in problems(tmp_path).values())


@pytest.mark.parametrize("is_apart", [False, True])
def test_files_of_no_set_that_were_exchanged(tmp_path, is_apart):
    folder, seals = tmp_path / "model", {"seal_dir": tmp_path / "seals"} if is_apart else {}
    names = ["a.npy", "b.npy", "c.npy"]
    save(folder, names)
    paths = [folder / name for name in names]
    for path in paths:
        protect_file(path, 2, **seals)

    def rename(path, name):
        for side in ("",) if is_apart else ("", ".parimend"):
            os.rename(f"{path}{side}", folder / f"{name}{side}")

    rename(paths[2], "d.npy")  # which anybody may do
    [renamed] = check_file(folder / "d.npy", **seals).files
    told = "" if is_apart else "it was protected as c.npy, and renamed or exchanged since"
    assert (renamed.ok, renamed.note, renamed.row[-1]) == (True, told, told or "-")
    for here, there in (("a.npy", "x"), ("b.npy", "a.npy"), ("x", "b.npy")):
        rename(folder / here, there)
    for path in paths[:2]:
        assert check_file(path, **seals).ok  # alone it may have been renamed, too
    for report in (check_all(paths[:2], **seals), check_file(folder, **seals)):
        found = {Path(file.path).name: file.problem for file in report.files if not file.ok}
        assert {*found} == {"a.npy", "b.npy"}
        assert f"holds what was protected as b.npy, and its own is in {paths[1]}" in found["a.npy"]
    for path in paths[:2]:
        assert protect_file(path, 2, **seals)[0].is_kept
    assert check_all(paths[:2], **seals).ok


def test_a_link_to_a_file_of_the_set_with_a_link_to_its_sidecar(tmp_path):
    """As ``best`` to one of the checkpoints; one seal cannot note both names."""
    save(tmp_path, ["1.npy", "2.npy"])
    for suffix in ("", ".parimend"):
        (tmp_path / f"best.npy{suffix}").symlink_to(f"2.npy{suffix}")
    for _ in range(2):
        protect_file(tmp_path, 2)
        assert problems(tmp_path) == {}
    for suffix in ("", ".parimend"):  # and a copy instead of it is the best one of then
        (tmp_path / f"best.npy{suffix}").unlink()
        shutil.copy(tmp_path / f"1.npy{suffix}", tmp_path / f"best.npy{suffix}")
    assert {*problems(tmp_path)} == {"best.npy"}


TEXTS = {
    "config.json": '{"model_type": "llama", "hidden": 64}',
    "generation_config.json": '{"do_sample": true, "eos": 2}',
}


@pytest.fixture(params=["raw", "npy", "folders"])
def small(request, tmp_path, rng):
    """Two files that are smaller than their budget, in one folder or in two."""
    names = {
        "raw": ("config.json", "generation_config.json"),
        "npy": ("a.npy", "b.npy"),
        "folders": ("unet/m.npy", "vae/m.npy"),
    }[request.param]
    for name in names:
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if request.param == "raw":
            path.write_text(TEXTS[name])
        else:
            np.save(path, rng.standard_normal(40))
    return tmp_path / "model", [tmp_path / "model" / name for name in names]


def test_a_seal_of_another_file_makes_nothing_of_a_small_one(small):
    folder, (one, other) = small
    protect_file(folder, 210, everything=True)
    content = other.read_bytes()
    shutil.copy(sidecar_of(one), sidecar_of(other))
    name = one.relative_to(folder).as_posix() if one.parent != folder else one.name
    for act in (check_file, repair_file, partial(load_file, on_damage="repair")):
        with pytest.raises(
            MismatchError, match=rf"{other}.parimend has the seal of {name}, and much"
        ):
            act(other)
    report = repair_file(folder)
    assert [file.path for file in report.files if not file.ok] == [str(other)]
    assert other.read_bytes() == content


@pytest.mark.parametrize("length", [20, 110, 140, 300])
@pytest.mark.parametrize("where", ["beside", "elsewhere"])
def test_what_a_shorter_file_holds_is_not_made_another(tmp_path, rng, length, where):
    """Of a file that ends within the header of another, no element is there to tell them apart."""
    one, other = tmp_path / "a.npy", tmp_path / "config.bin"
    np.save(one, rng.standard_normal(40, dtype=np.float32))
    protect_file(one, 210)
    content = rng.bytes(length)
    other.write_bytes(content)
    if where == "beside":
        shutil.copy(sidecar_of(one), sidecar_of(other))
    seals = sidecar_of(one) if where == "elsewhere" else None
    for act in (check_file, repair_file):
        with pytest.raises(MismatchError, match=r"has the seal of a\.npy, and much of"):
            act(other, seal_dir=seals)
    assert other.read_bytes() == content


def test_what_is_repaired_in_the_wrong_place_is_told(tmp_path, rng):
    places = [tmp_path / name for name in ("a.npy", "b.npy", "c.npy")]
    for path in places:
        np.save(path, rng.standard_normal(400))
    protect_file(tmp_path, 20)
    one, other, aside = *places[:2], tmp_path / "aside"
    for each in (Path, sidecar_of):
        each(one).rename(aside)
        each(other).rename(each(one))
        aside.rename(each(other))
    right = one.read_bytes()
    flip(one, rng, 2, start=128)
    for report, does in ((check_file(tmp_path), "can be"), (repair_file(tmp_path), "corrected")):
        found = {Path(file.path): file for file in report.files}
        assert found[one].verdict is found[other].verdict is Verdict.UNKNOWN
        assert "2 wrong elements" in found[one].findings[0]
        assert does in found[one].findings[0]
        assert "holds what was protected as b.npy" in found[one].findings[1]
    assert found[one].written == str(one)
    assert found[other].written == ""
    assert one.read_bytes() == right


def test_a_seal_that_is_lost_is_told_from_one_that_never_was(tmp_path, rng):
    """To protect what is there would seal its damage."""
    for name in ("a.npy", "b.npy", "c.npy"):
        np.save(tmp_path / name, rng.standard_normal(400))
    protect_file(tmp_path, 20)
    lost = tmp_path / "b.npy"
    sidecar_of(lost).unlink()
    flip(lost, rng, 1, start=128)
    np.save(tmp_path / "new.npy", rng.standard_normal(400))
    found = {Path(file.path).name: file.problem for file in check_file(tmp_path).files}
    assert found["b.npy"].startswith("its seal is lost: it was protected together with the others")
    assert "compare it with a copy before" in found["b.npy"]
    assert found["new.npy"].startswith("added: it has no seal")
    assert found["a.npy"] == found["c.npy"] == ""


def test_a_small_file_without_a_seal_elsewhere_stays_as_it_is(small, tmp_path, rng):
    """Of the size and with the header of one that has a seal there."""
    _, (one, other) = small
    other = other.rename(other.with_name("unprotected" + other.suffix))
    header = one.read_bytes()[: 128 * (one.suffix == ".npy")]
    content = header + rng.bytes(len(one.read_bytes()) - len(header))
    other.write_bytes(content)
    protect_file(one, 210, seal_dir=tmp_path / "seals")
    with pytest.raises(SealError, match=r"no seal in \S+ is of its content"):
        repair_file(other, seal_dir=tmp_path / "seals")
    assert other.read_bytes() == content


@pytest.mark.parametrize("count", [1, 15])
def test_a_renamed_file_is_repaired_with_its_seal(small, rng, count):
    folder, (one, _) = small
    protect_file(folder, 210, everything=True)
    original = one.read_bytes()
    new = one.rename(one.with_name("renamed" + one.suffix))
    sidecar_of(one).rename(sidecar_of(new))
    flip(new, rng, min(count, 1 + len(original) // 60), start=0)
    assert repair_file(new).verdict is Verdict.CORRECTED
    new.write_bytes(original[:-20])
    assert repair_file(new).verdict is Verdict.CORRECTED
    new.write_bytes(b"")
    assert repair_file(new).verdict is Verdict.CORRECTED
    assert new.read_bytes() == original
    back = new.rename(one)
    sidecar_of(new).rename(sidecar_of(one))
    back.write_bytes(bytes(len(original)))
    assert repair_file(back).verdict is Verdict.CORRECTED  # any that many wrong words, all of them
    assert back.read_bytes() == original
