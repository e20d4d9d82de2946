"""How commands end: exit status, one line that says why, and an object with ``--json``."""

import ctypes
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import get_args

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from parimend import protect_, protect_file
from parimend.cli import COMMANDS, app_of, campaign
from parimend.cli.contract import Status, held
from parimend.cli.propagate import UPSETS
from parimend.errors import SpecError
from parimend.faults import KINDS, PLACEMENTS
from parimend.planner.timing import Seconds
from parimend.showing import command_word, escaped
from parimend.upsets import Kind

OURS = "this is an error of parimend itself; please report what is printed above"
# What every command refuses, and what it says.
REFUSED = {
    "check": (["NOTHING"], "no-such-file: No such file or directory"),
    "repair": (["NOTHING", "--in-place"], "no-such-file: No such file or directory"),
    "protect": (["NOTHING"], "no-such-file: No such file or directory"),
    "inspect": (["NOTHING"], "no-such-file: No such file or directory"),
    "fingerprint": (["NOTHING"], "no-such-file: No such file or directory"),
    "plan": (["NOTHING"], "no-such-file: No such file or directory"),
    "inject": (["NOTHING", "-o", "x", "-f", "zero"], "no-such-file: No such file or directory"),
    "propagate": (["no_such_module:f"], "module 'no_such_module' cannot be imported"),
    "demo": (["--data", "mnist", "--root", "NOTHING"], "name the folder of the IDX files"),
    "campaign run": (["NOTHING", "-o", "x"], "no-such-file: No such file or directory"),
    "campaign resume": (["NOTHING"], "holds no campaign"),
    "campaign status": (["NOTHING"], "holds no campaign"),
    "campaign report": (["NOTHING"], "holds no campaign"),
    "campaign compare": (["NOTHING:a", "NOTHING:b"], "holds no campaign"),
}
# Arguments that are wrong in themselves.
MISUSED = {
    "check": [],
    "repair": ["x"],
    "protect": ["x", "-e", "many"],
    "inspect": ["x", "--no-such-option"],
    "fingerprint": [],
    "plan": ["x", "--carrier", "pigeon"],
    "inject": ["x", "-o", "y"],
    "propagate": [],
    "demo": ["--errors", "0"],
    "campaign run": ["x"],
    "campaign resume": ["x", "--workers", "0"],
    "campaign status": [],
    "campaign report": [],
    "campaign compare": ["a"],
}


def test_every_command_is_held():
    commands = {each.name: each for each in app_of(COMMANDS).registered_commands}
    commands |= {f"campaign {each.name}": each for each in campaign.app.registered_commands}
    assert commands.keys() == REFUSED.keys() == MISUSED.keys()
    assert all(hasattr(each.callback, "__wrapped__") for each in commands.values())


@pytest.mark.parametrize("name", REFUSED)
def test_help(run, name):
    code, out, _ = run(*name.split(), "--help")
    assert code == 0
    assert "Usage" in out
    assert "--json" in out


def test_help_of_inject_names_every_kind_and_placement(run):
    _, out, _ = run("inject", "--help")
    words = set(re.findall(r"[a-z]+", out))
    assert words >= KINDS.keys() | PLACEMENTS.keys()


def test_help_of_propagate_names_every_kind(run):
    words = set(re.findall(r"[a-z]+", run("propagate", "--help")[1]))
    assert words >= set(get_args(Kind)) == set(UPSETS)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done(run, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    arguments, says = REFUSED[name]
    _refused(run, name, [each.replace("NOTHING", "no-such-file") for each in arguments], says)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", MISUSED)
def test_arguments_that_are_wrong(run, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    _refused(run, name, MISUSED[name])


def _refused(run, name, arguments, says=""):
    code, out, err = run(*name.split(), *arguments)
    assert (code, out) == (Status.FAILED, "")
    assert err.startswith("parimend: ")
    assert err.count("\n") == 1
    assert says in err
    assert "Invalid value:" not in err
    code, out, told = run(*name.split(), *arguments, "--json")
    said = json.loads(out)
    assert (code, said["schema"], said["command"]) == (Status.FAILED, 1, name)
    assert told == err == f"parimend: {said['error']}\n"


def test_without_a_command(run):
    assert json.loads(run("--json")[1])["command"] == ""
    assert "No such command 'chekc'. Did you mean 'check'?" in run("chekc")[2]
    # Behind --, it is a file.
    assert run("check", "--", "--json")[1:] == (
        "",
        "parimend: --json: No such file or directory\n",
    )


@pytest.mark.parametrize("name", ["my  model.bin", "模型\u3000v2.bin"])
def test_names_keep_their_spaces(run, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(b"weights")
    _, _, err = run("check", name)
    assert f"{escaped(name)} is not protected" in err
    assert f"parimend protect {escaped(command_word(name))} makes one" in err
    assert name in json.loads(run("check", name, "--json")[1])["error"]


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("raised", "status", "says"),
    [
        (SpecError("it cannot be\nso"), 2, "it cannot be so"),
        (FileNotFoundError(2, "No such file", "x"), 2, "x: No such file"),
        (OSError("it was not read back"), 2, "it was not read back"),
        (MemoryError(), 2, "there is not enough memory for this"),
        (EOFError(), 2, OURS),
        (
            KeyError("x"),
            2,
            "this is an error of parimend itself; please report what is printed above",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("what was done is kept"), 130, "what was done is kept"),
        (SystemExit("--root: there is nothing"), 2, "--root: there is nothing"),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
    ],
)
def test_whatever_ends_a_command(capsys, raised, status, says, as_json):
    @held("it")
    def command(json):
        raise raised

    with pytest.raises(SystemExit) as end:
        command(json=as_json)
    out, err = capsys.readouterr()
    assert end.value.code == status
    assert err.splitlines()[-1:] == ([f"parimend: {says}"] if says else [])
    assert ("Traceback" in err) == ("itself" in says)
    error = json.loads(out)["error"] if out else ""
    assert error == (says if as_json else "")


@pytest.mark.parametrize("given", [[""], ["x", "--seal-dir="], ["x", "--seal-dir", ""], ["--", ""]])
def test_what_a_variable_that_is_not_set_leaves(run, monkeypatch, tmp_path, given):
    """As a path it would be this folder, and all of it protected or checked."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.ones(9))
    for command in (["check"], ["protect"], ["repair", "--in-place"]):
        code, out, err = run(*command, *given)
        assert (code, out, "(this folder is .)" in err) == (2, "", True)
    assert os.listdir() == ["x.npy"]


def test_a_real_interrupt(run, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("parimend.files.known_members", stop)
    code, out, err = run("check", "x", "--json")
    assert (code, json.loads(out)["error"], err) == (130, "interrupted", "parimend: interrupted\n")


@pytest.mark.parametrize(
    ("number", "status", "says"),
    [
        (signal.SIGTERM, 143, "stopped from outside (SIGTERM)"),
        (signal.SIGHUP, 129, "stopped, as the terminal was closed (SIGHUP)"),
    ],
)
def test_a_command_that_is_stopped_leaves_nothing_behind(
    run, model, monkeypatch, tmp_path, number, status, says
):
    def stop(*_):
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # as `timeout` does
        time.sleep(60)

    before = sorted(os.listdir(tmp_path))
    bytes_before = model.read_bytes()
    model.write_bytes(bytes_before[:-8] + b"damaged!")
    monkeypatch.setattr("parimend.files.writing.copy_data", stop)
    handler = signal.signal(number, signal.SIG_DFL)  # Ray leaves one of its own
    try:
        code, out, err = run("repair", model, "--in-place", "--json")
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, handler)
    assert (code, json.loads(out)["error"], err) == (status, says, f"parimend: {says}\n")
    assert sorted(os.listdir(tmp_path)) == before


def test_a_signal_that_is_ignored_stays_so(run, model):
    """As `nohup` does it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run("check", model)[0] == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_interrupt_before_the_command_begins(run, monkeypatch):
    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr("parimend.cli._tell_version", stop)
    code, out, err = run("--version")
    assert (code, out, err) == (130, "", "parimend: interrupted\n")


def test_a_stop_before_the_command_begins_says_what_stopped_it(run, monkeypatch):
    """As a service manager tells by the status whether it was its own."""
    monkeypatch.setattr("parimend.cli._tell_version", lambda: os.kill(os.getpid(), signal.SIGTERM))
    handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray leaves one of its own
    try:
        code, out, err = run("--version")
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert (code, out, err) == (143, "", "parimend: stopped from outside (SIGTERM)\n")


def test_an_interrupt_that_a_compiler_loses(capsys):
    """As LLVM does, which calls Python back: what it fails with then is no error of ours."""

    @ctypes.CFUNCTYPE(None)
    def called_back():
        raise KeyboardInterrupt

    @held("it")
    def command(json):
        called_back()
        raise RuntimeError("no compiled object yet")

    before = sys.unraisablehook
    with pytest.raises(SystemExit) as end:
        command(json=False)
    assert (end.value.code, capsys.readouterr().err) == (130, "parimend: interrupted\n")
    assert sys.unraisablehook is before


def test_an_interrupt_while_the_command_line_is_loaded(tmp_path):
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    done = subprocess.run(
        [sys.executable, "-m", "parimend", "check", "model"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "parimend: interrupted\n")


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"w": np.arange(3000, dtype=np.float32)}, path)
    protect_file(path, 3)
    return path


def test_a_clean_file_is_checked_at_once(model):
    """What computes, and what draws on terminals, takes longer to load than the file to read."""
    script = (
        "import sys; from parimend.cli import main\n"
        "try: main(['check', sys.argv[1]])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'numba', 'llvmlite', 'scipy', 'torch', 'rich', 'parimend.decoders'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, model], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "clean" in done.stdout
    assert done.stderr == ""  # no progress bar where there is no terminal


def full():
    return os.open("/dev/full", os.O_WRONLY)


def unread():
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize(
    ("arguments", "made", "status", "says"),
    [
        (["check", "MODEL"], full, 2, "parimend: standard output: No space left on device"),
        (["plan", "--help"], full, 2, "parimend: No space left on device"),
        (["--version"], full, 2, "parimend: No space left on device"),
        *((each, unread, 141, "") for each in (["check", "MODEL"], ["plan", "--help"])),
        (["--version"], unread, 141, ""),
    ],
)
def test_an_output_that_takes_nothing(model, made, status, says, arguments):
    out = made()
    command = [str(model) if each == "MODEL" else each for each in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "parimend", *command], stdout=out, stderr=subprocess.PIPE
    )
    os.close(out)
    assert done.returncode == status
    assert done.stderr.decode().count("\n") == bool(says)
    assert says in done.stderr.decode()


@pytest.fixture
def quick_plans(monkeypatch):
    """Maps of one budget, and nothing is timed."""
    monkeypatch.setattr("parimend.planner.maps.BUDGETS", (3,))
    monkeypatch.setattr("parimend.planner.planning.seconds", lambda *_: Seconds(2e-3, 1e-3, 12000))


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["check", "MODEL", "--receipt", "OUT.json"], "verdict"),
        (["plan", "MODEL", "--map", "OUT.json"], "guaranteed"),
        (["plan", "MODEL", "--csv", "OUT.csv"], "guaranteed"),
        (["inject", "MODEL", "-o", "broken.npy", "-f", "zero", "--save", "OUT.json"], "faults"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_an_answer_is_given_though_what_goes_beside_it_cannot_be_written(
    model, run, quick_plans, tmp_path, monkeypatch, arguments, key, as_json
):
    """As on a full disk, after hours of work."""

    def full(descriptor):
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if ".OUT" in name:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    monkeypatch.chdir(tmp_path)
    given = [str(model) if each == "MODEL" else each for each in arguments]
    without = run(*given[:-2], *["--json"] * as_json)
    status, out, err = run(*given, *["--json"] * as_json)
    assert (without[0], status) == (0, 2)
    told = f"{given[-1]}: No space left on device"
    assert err == f"parimend: {told}\n"
    assert not (tmp_path / given[-1]).exists()
    if as_json:
        told_without, said = json.loads(without[1]), json.loads(out)
        assert said.pop("error") == told
        assert said.keys() == told_without.keys()
        assert said[key] == told_without[key]
    else:
        assert len(out.splitlines()) == len(without[1].splitlines()) > 0


@pytest.mark.parametrize("lacking", [{"m.json", "p.svg"}, {"p.html"}, {"t.csv"}])
def test_of_several_files_those_that_can_be_written_are(
    model, run, quick_plans, tmp_path, monkeypatch, lacking
):
    def full(descriptor):
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if any(f".{each}." in name for each in lacking):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    monkeypatch.chdir(tmp_path)
    asked = {"--map": "m.json", "--html": "p.html", "--picture": "p.svg", "--csv": "t.csv"}
    status, _, err = run("plan", model, *(word for pair in asked.items() for word in pair))
    assert status == 2
    assert err.count("No space left on device") == len(lacking)
    assert {each for each in asked.values() if os.path.exists(each)} == {*asked.values()} - lacking
    assert all(each in err for each in lacking)


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "MODEL", "--receipt", "gone/r.json"],
        ["repair", "MODEL", "-o", "gone/r.npy"],
        ["plan", "MODEL", "--map", "gone/r.json"],
        ["plan", "MODEL", "--csv", "gone/r.csv"],
        ["inject", "MODEL", "-o", "gone/r.npy", "-f", "zero"],
        ["inject", "MODEL", "-o", "r.npy", "-f", "zero", "--save", "gone/r.json"],
    ],
)
def test_a_folder_that_is_not_there_is_told_before_the_work(
    model, run, tmp_path, monkeypatch, arguments
):
    monkeypatch.chdir(tmp_path)
    there = sorted(tmp_path.rglob("*"))
    status, out, err = run(*[str(model) if each == "MODEL" else each for each in arguments])
    where = next(each for each in arguments if each.startswith("gone"))
    assert (status, out) == (2, "")
    assert err == f"parimend: {where}: there is no folder gone: make it, or take another\n"
    assert sorted(tmp_path.rglob("*")) == there


@pytest.mark.parametrize("end", ["/", "/.", "//"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "MODEL", "--receipt", "new"],
        ["repair", "MODEL", "-o", "new"],
        ["protect", "MODEL", "-o", "new", "--carrier", "lowbits"],
        ["protect", "MODEL", "-o", "new"],
        ["plan", "MODEL", "--map", "new"],
        ["plan", "MODEL", "--csv", "new.csv"],
        ["plan", "MODEL", "--html", "new.html"],
        ["plan", "MODEL", "--picture", "new.svg"],
        ["inject", "MODEL", "-f", "zero", "-o", "new"],
        ["inject", "MODEL", "-f", "zero", "-o", "broken", "--save", "new"],
    ],
)
def test_what_ends_in_a_separator_is_a_folder(model, run, tmp_path, monkeypatch, arguments, end):
    monkeypatch.chdir(tmp_path)
    given = [str(model) if each == "MODEL" else each for each in arguments]
    given = [each + end if each.startswith("new") else each for each in given]
    there = sorted(tmp_path.rglob("*"))
    status, out, err = run(*given)
    assert (status, out, sorted(tmp_path.rglob("*"))) == (2, "", there)
    assert " is no folder: make it first, or name a file" in err
    assert (err.count("\n"), f"{end} is no folder" in err) == (1, True)


WRITTEN = [
    ["check", "MODEL", "--receipt", "OUT"],
    ["plan", "MODEL", "--map", "OUT"],
    ["plan", "MODEL", "--csv", "OUT.csv"],
    ["plan", "MODEL", "--html", "OUT.html"],
    ["plan", "MODEL", "--picture", "OUT.svg"],
    ["inject", "MODEL", "-o", "broken.npy", "-f", "zero", "--save", "OUT"],
    ["inject", "MODEL", "-f", "zero", "-o", "OUT"],
    ["repair", "MODEL", "-o", "OUT"],
    ["protect", "--carrier", "lowbits", "plain.safetensors", "-o", "OUT"],
]


@pytest.fixture
def others(model, quick_plans, tmp_path, monkeypatch):
    """A folder to write to, with a file of weights that is not protected."""
    folder = tmp_path / "others"
    folder.mkdir()
    monkeypatch.chdir(folder)
    safetensors.numpy.save_file({"w": np.ones(2000, np.float32)}, folder / "plain.safetensors")
    return folder


def _written(run, model, arguments):
    """Run a command that writes OUT; the status, what it says, and where that is."""
    out = next(each for each in arguments if each.startswith("OUT"))
    return *run(*[str(model) if each == "MODEL" else each for each in arguments])[::2], out


def _content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("arguments", WRITTEN)
@pytest.mark.parametrize("kept", ["beside", "inside", "gone"])
def test_no_command_replaces_a_file_that_has_a_seal(run, model, others, arguments, kept):
    out = others / next(each for each in arguments if each.startswith("OUT"))
    if kept == "inside":
        lowbits = ["--carrier", "lowbits", "--errors", "2"]
        assert run("protect", "plain.safetensors", "-o", out, *lowbits)[0] == 0
    else:
        np.save(others / "precious.npy", np.arange(100.0))
        (others / "precious.npy").rename(out)
        protect_file(out, errors=3)
        if kept == "gone":
            out.unlink()
    before = _content(others)
    status, err, name = _written(run, model, arguments)
    assert status == 2
    has = "has a seal inside" if kept == "inside" else f"has the seal {name}.parimend"
    remedy = "take another name, or remove what is there"
    assert err.startswith(f"parimend: {name} {has} and would be replaced: {remedy}")
    assert _content(others) == before


@pytest.mark.parametrize("arguments", WRITTEN)
@pytest.mark.parametrize("kept", ["beside", "on the way", "of a model"])
def test_no_command_writes_through_a_link_to_a_file_that_has_a_seal(
    run, model, others, arguments, kept
):
    """A link may lead to another one, and each of them may be what was protected."""
    out = others / next(each for each in arguments if each.startswith("OUT"))
    way, end = others / "way", others / "precious.safetensors"
    weights = {"w": torch.arange(90.0)}
    safetensors.torch.save_file(weights, end)
    out.symlink_to(way.name)
    way.symlink_to(end.name)
    if kept == "of a model":
        protect_(weights, 3).save(others / "precious.parimend")
    else:
        protect_file(way if kept == "on the way" else end, errors=3)
    before = _content(others)
    status, err, name = _written(run, model, arguments)
    led, side = {
        "beside": ("precious.safetensors", "precious.safetensors.parimend"),
        "on the way": ("way", "way.parimend"),
        "of a model": ("precious.safetensors", "precious.parimend"),
    }[kept]
    assert (status, _content(others)) == (2, before)
    assert err.startswith(f"parimend: {name} leads to {led}, which has the seal {side} and would ")


@pytest.mark.parametrize("arguments", WRITTEN)
def test_what_a_command_has_written_it_may_write_again(run, model, others, arguments):
    if arguments[0] == "protect":
        arguments = [*arguments, "--errors", "2", "--force"]
    first = _written(run, model, arguments)
    assert first[0] == 0, first
    assert _written(run, model, arguments) == first


@pytest.mark.parametrize("arguments", [each for each in WRITTEN if each[-1] == "OUT"][:3])
@pytest.mark.parametrize("content", [b"\x93NUMPY", b'{"a": 1}', b"x"])
def test_what_is_written_about_files_replaces_nothing_of_another_kind(
    run, model, others, arguments, content
):
    out = others / "OUT"
    out.write_bytes(content)
    before = _content(others)
    status, err, _ = _written(run, model, arguments)
    assert (status, _content(others)) == (2, before)
    assert err.startswith("parimend: OUT is of another kind and would be replaced: ")
    out.write_bytes(b"")  # as tempfile makes them
    assert _written(run, model, arguments)[0] == 0


@pytest.mark.parametrize("arguments", WRITTEN[:1] + WRITTEN[-3:])
def test_results_do_not_take_names_of_seals(run, model, others, arguments):
    given = ["OUT.parimend" if each == "OUT" else each for each in arguments]
    status, err, _ = _written(run, model, given)
    assert (status, "has the name of a seal" in err) == (2, True)
    assert list(_content(others)) == ["plain.safetensors"]


@pytest.mark.parametrize("how", ["name", "link", "hard link", "dots"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["repair", "READ", "-o", "WRITTEN"],
        ["repair", "other", "-o", "WRITTEN", "--from", "READ"],
        ["inject", "READ", "-f", "zero", "-o", "WRITTEN"],
        ["inject", "READ", "-f", "zero", "-o", "new", "--save", "WRITTEN"],
        ["inject", "other", "-o", "WRITTEN", "--replay", "READ"],
        ["inject", "other", "-o", "new", "--replay", "READ", "--save", "WRITTEN"],
        ["protect", "READ", "--carrier", "lowbits", "-o", "WRITTEN", "--force"],
        ["plan", "READ", "--map", "WRITTEN"],
        ["plan", "READ", "--csv", "WRITTEN.csv"],
        ["check", "READ", "--receipt", "WRITTEN", "--seal-dir", "seals"],
    ],
)
def test_no_command_writes_over_what_it_reads(run, others, arguments, how):
    end = ".csv" if "WRITTEN.csv" in arguments else ""
    read, written = "read" + end, ("written" if "link" in how else "read") + end
    (others / "plain.safetensors").rename(read)
    (others / "other").write_bytes(os.urandom(900))
    if "check" in arguments or "repair" in arguments:
        protect_file(read, 3, seal_dir="seals" if "check" in arguments else None)
        protect_file("other", 3)
    if "--replay" in arguments or "--save" in arguments:
        (others / read).write_text('{"format": "parimend.faults"}')
    if "--map" in arguments:
        (others / read).write_text('{\n "source": ')
    if "check" in arguments:
        (others / read).write_text('{"files":[')
    if how == "link":
        os.symlink(read, written)
    if how == "hard link":
        os.link(read, written)
    out = os.path.join(os.pardir, others.name, written) if how == "dots" else written
    given = {"READ": read, "WRITTEN": out, "WRITTEN.csv": out}
    before = _content(others)
    status, printed, err = run(*[given.get(each, each) for each in arguments])
    assert (status, printed, _content(others)) == (2, "", before)
    assert " is read by this command, too: take another name" in err


def test_a_folder_is_not_repaired_into_itself(run, others):
    protect_file(others / "plain.safetensors", 3)
    before = _content(others)
    for path in (".", "plain.safetensors"):
        status, _, err = run("repair", path, "-o", ".")
        assert (status, _content(others)) == (2, before)
        assert err.endswith("read by this command, too: take another name, or use --in-place\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["inject", "MODEL", "-f", "zero", "-o", "OUT", "--save", "OUT"],
        ["plan", "MODEL", "--map", "OUT.csv", "--csv", "OUT.csv"],
        ["plan", "MODEL", "--html", "OUT.html", "--csv", "LINK.csv"],
    ],
)
def test_a_command_writes_each_file_to_a_place_of_its_own(run, model, others, arguments):
    (others / "LINK.csv").symlink_to("OUT.html")
    before = sorted(os.listdir())
    status, err, _ = _written(run, model, arguments)
    assert (status, sorted(os.listdir())) == (2, before)
    assert " is where this command writes something else: take two names" in err


@pytest.mark.parametrize("stream", [1, 2])
def test_what_is_printed_to_is_not_replaced(model, tmp_path, stream):
    """As /dev/stdout, redirected to a file: what is printed would be lost."""
    log = tmp_path / "log"
    command = f'"$0" -m parimend check "$1" --receipt /dev/fd/{stream} >>"$2" 2>&1'
    log.write_text("before\n")
    assert subprocess.run(["sh", "-c", command, sys.executable, model, log]).returncode == 2
    told = f"/dev/fd/{stream} is what this process prints to: name another file"
    assert log.read_text() == f"before\nparimend: {told}\n"


def test_no_output_at_all(model):
    command = '"$0" -m parimend check "$1" >&- 2>&-'
    assert subprocess.run(["sh", "-c", command, sys.executable, model]).returncode == 0
