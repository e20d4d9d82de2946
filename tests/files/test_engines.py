"""Many files at a time, here and on other machines: one report, whoever looks."""

import json
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import ray
import safetensors.numpy

from parimend import check_file, protect_file
from parimend.errors import ParimendError, SealError, SpecError
from parimend.files import check_all
from parimend.files.engines import Threads
from parimend.outcomes import Verdict
from tests.cli.conftest import run  # noqa: F401
from tests.files.conftest import flip

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folders(tmp_path, rng):
    """Two sharded checkpoints, of which one is damaged, and lost a shard."""
    found = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        names = [f"model-{number:05}-of-00005.safetensors" for number in range(1, 6)]
        for shard in names:
            arrays = {shard: rng.standard_normal((40, 50), dtype=np.float32)}
            safetensors.numpy.save_file(arrays, folder / shard)
        text = json.dumps({"weight_map": {shard: shard for shard in names}})
        (folder / INDEX).write_text(text)
        protect_file(folder, errors=10)
        found.append(folder)
    flip(found[1] / names[0], rng, 3)
    flip(found[1] / names[1], rng, 500)
    (found[1] / names[2]).unlink()
    return found


def timeless(report):
    return replace(report, seconds=0.0)


def test_as_many_workers_as_you_like(folders):
    first, second = folders
    both = check_all(folders)
    assert both.files == check_file(first).files + check_file(second).files
    assert both.verdict is Verdict.UNCORRECTABLE
    for workers in (2, 5, None):
        assert timeless(check_all(folders, workers=workers)) == timeless(both)
        assert check_file(second, workers=workers).files == check_file(second).files


@pytest.mark.parametrize("lost", [False, True])
def test_what_is_only_known_from_seals_is_found_in_any_order(folders, lost):
    """Seals name the missing, whoever reads them first; without any index, too."""
    _, folder = folders
    (folder / INDEX).unlink()
    if lost:
        (folder / f"{INDEX}.parimend").unlink()
    expected = check_file(folder)
    assert len(expected.files) == 6
    assert sum(file.problem.startswith("missing") for file in expected.files) == 2
    for workers in (2, 6):
        assert check_file(folder, workers=workers).files == expected.files


@pytest.mark.long
def test_a_cluster_finds_the_same(folders, run):  # noqa: F811
    arguments = ["check", *folders, "--workers", "2", "--json"]
    code, out, _ = run(*arguments, "--engine", "ray")
    assert not ray.is_initialized()
    there, here = json.loads(out), json.loads(run(*arguments)[1])
    assert (code, there["files"]) == (1, here["files"])
    assert there["verdict"] == "uncorrectable"


def test_one_path_that_cannot_be_checked_does_not_stop_the_others(folders, tmp_path):
    first, _ = folders
    (tmp_path / "empty").mkdir()
    (tmp_path / "plain").write_bytes(b"not protected")
    paths = [tmp_path / "empty", first, tmp_path / "plain", tmp_path / "nothing"]
    report = check_all(paths, workers=2)
    problems = {file.path: file.problem for file in report.files if file.problem}
    assert [*problems] == [str(path) for path in paths if path != first]
    assert problems[str(paths[3])] == "No such file or directory"
    assert report.verdict is Verdict.UNKNOWN
    assert sum(file.verdict is Verdict.CLEAN for file in report.files) == 6
    with pytest.raises(SealError, match="is not protected"):
        check_all(paths[2:3], workers=2)


def test_workers_look_at_the_same_time():
    """All of three wait until all of three are there."""
    together = threading.Barrier(3, timeout=60)
    found = {*Threads(3).each(lambda path: together.wait() * 0 + path, [1, 2, 3])}
    assert found == {(0, 1), (1, 2), (2, 3)}


def test_what_ends_the_others_is_not_swallowed():
    looked = []

    def look(path):
        looked.append(path)
        time.sleep(0.01)
        if path == 3:
            raise KeyboardInterrupt
        return path

    with pytest.raises(KeyboardInterrupt):
        [*Threads(2).each(look, range(1000))]
    assert len(looked) < 1000


@pytest.mark.parametrize("workers", [1, 2])
def test_why_nothing_is_found_is_given_in_place_of_it(workers):
    def look(path):
        if path == "lost":
            raise SealError("no")
        return path

    found = dict(Threads(workers).each(look, ["there", "lost"]))
    assert found[0] == "there"
    assert isinstance(found[1], SealError)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"engine": "dask"}, "unknown engine 'dask': there are local, ray"),
        ({"workers": 0}, "workers must be from 1 to 32768, not 0"),
        ({"workers": 2**31}, "workers must be from 1 to 32768, not 2147483648"),
        ({"workers": 1.5}, "workers must be a whole number"),
        ({"workers": True}, "workers must be a whole number"),
        ({"workers": -2, "engine": "ray"}, "workers must be from 1 to 32768, not -2"),
    ],
)
def test_engines_that_there_are_not(folders, how, says):
    with pytest.raises(SpecError, match=says):
        check_file(folders[0], **how)


def test_ray_must_be_there(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ParimendError, match=r"needs Ray: pip install 'parimend\[ray\]'"):
        check_file(folders[0], engine="ray")


def test_the_exit_status_is_that_of_the_worst(folders, run):  # noqa: F811
    first, second = folders
    assert run("check", first, "--workers", 2)[0] == 0
    code, out, _ = run("check", first, second, "--workers", "2")
    assert (code, out.count("clean   ") > 5, "missing: " in out) == (1, True, True)
    assert run("check", second / INDEX, first)[0] == 1
    assert run("check", first, "--workers", "0")[0] == 2
    assert run("check", first, "--engine", "dask")[0] == 2


@pytest.mark.parametrize(
    ("workers", "files", "threads"), [(1, 9, 8), (2, 9, 4), (9, 2, 4), (9, 9, 1)]
)
def test_files_that_are_looked_at_together_share_the_cores(workers, files, threads):
    engine = Threads(workers)
    engine.cores = 8
    assert engine.threads(files) == threads
