"""The command line: what it prints, and its exit status."""

import errno
import json
import math
import os
import re
import shlex
import subprocess
import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import safetensors.numpy
from safetensors.torch import save_file

import parimend as pm
from parimend.carriers import Balance, CarrierName, Request
from parimend.cli.options import CarrierOption, PerOption
from parimend.files import check_all, seals_of
from parimend.words.layout import Per, whole
from tests.files.conftest import flip_bit


@pytest.fixture
def model(tmp_path, rng):
    path = tmp_path / "model.safetensors"
    arrays = {
        "fc.weight": rng.standard_normal((64, 50), dtype=np.float32),
        "fc.bias": rng.standard_normal(64, dtype=np.float32),
    }
    safetensors.numpy.save_file(arrays, path)
    return path


def test_a_seal_of_planes(model, run):
    """Protected from Python; everything else is the same."""
    parts = [whole("fc.weight", "F32", (64, 50)), whole("fc.bias", "F32", (64,))]
    high = {"fc.weight": 0xFF800000, "fc.bias": 0x7F800000}
    low = {name: mask ^ 0xFFFFFFFF for name, mask in high.items()}
    balance = Balance.of(parts, [(20, high), (4, low)])
    request = Request(balance.errors, pm.Sidecar(), balance=balance)
    pm.protect_file(model, SimpleNamespace(request=request))
    original = model.read_bytes()
    code, out, _ = run("check", model)
    assert (code, "3,264 of 3,264" in out) == (0, True)
    code, out, _ = run("inspect", model)
    assert (code, "8 to 9 bits of each" in out, "4 errors" in out) == (0, True, True)
    _, out, _ = run("inspect", model, "--json")
    words = json.loads(out)["files"][0]["words"]
    assert [word["masks"]["fc.weight"] for word in words] == ["0xff800000", "0x7fffff"]
    damaged = bytearray(original)
    begin = len(original) - 4 * 3264
    for k in range(20):
        damaged[begin + 400 * k + 3] ^= 0x40  # an exponent
    damaged[begin + 400] ^= 1
    model.write_bytes(damaged)
    code, out, _ = run("check", model, "--list")
    assert code == 1
    assert out.count("F32, bits 0xff800000") + out.count("F32, bits 0x7f800000") == 20
    assert out.count("F32, bits 0x7fffff ") + out.count("F32, bits 0x807fffff") == 1
    _, out, _ = run("check", model, "--json")
    first = json.loads(out)["files"][0]["words"][0]["changes"][0]
    assert (first["mask"] in ("0xff800000", "0x7f800000"), first["received_value"][:2]) == (
        True,
        "0x",
    )
    code, out, _ = run("repair", model, "--in-place")
    assert (code, model.read_bytes() == original) == (0, True)


def test_from_protect_to_repair(model, run, tmp_path):
    original = model.read_bytes()
    broken = tmp_path / "broken.safetensors"
    fixed = tmp_path / "fixed.safetensors"
    code, out, _ = run("protect", model, "--errors", 20)
    assert code == 0
    assert "3,264 of 3,264" in out
    code, out, _ = run("check", model)
    assert (code, "clean" in out) == (0, True)
    code, out, _ = run("inject", model, "-o", broken, "--fault", "bitflip", "--count", 20)
    assert (code, "20 faults (bitflip, scattered, seed 0)" in out) == (0, True)
    code, out, _ = run("check", broken)
    assert (code, "20 wrong elements, can be corrected" in out) == (1, True)
    code, out, _ = run("check", broken, "--list")
    assert out.count("fc.weight") + out.count("fc.bias") >= 20
    code, out, _ = run("repair", broken, "-o", fixed)
    assert (code, "20 wrong elements, corrected" in out) == (0, True)
    assert fixed.read_bytes() == original
    code, out, _ = run("repair", broken, "--in-place")
    assert code == 0
    assert broken.read_bytes() == original
    code, out, _ = run("inspect", broken)
    assert (code, "64 x 50" in out) == (0, True)


@pytest.mark.parametrize("count", [1, 900])
def test_a_damaged_copy_has_its_own_name_however_much_of_it_is_damaged(model, run, tmp_path, count):
    broken = tmp_path / "broken.safetensors"
    run("protect", model, "--errors", 900)
    run("inject", model, "-o", broken, "-f", "zero", "-n", count)
    report = json.loads(run("check", broken, "--json")[1])
    assert [file["verdict"] for file in report["files"]] == ["correctable"]
    assert run("repair", broken, "--in-place")[0] == 0
    out = run("check", broken)[1]
    assert "clean" in out
    assert model.name not in out  # nothing to note of its name


def test_damage_is_no_reason_to_seal_what_is_damaged(model, run, tmp_path):
    broken = tmp_path / "broken.safetensors"
    for errors in (20, 900):  # seals of either size are as old as the file, or older
        run("protect", model, "--errors", errors, "--force")
        run("inject", model, "-o", broken, "-f", "random", "-n", 2000)
        code, out, err = run("check", broken)
        assert (code, "uncorrectable" in out) == (1, True)
        assert "--force" not in out + err
        assert "fetch it again" in out + err


def test_json(model, run, tmp_path):
    broken = tmp_path / "broken.safetensors"
    made = json.loads(run("protect", model, "--errors", 20, "--json")[1])
    assert (made["schema"], made["command"]) == (1, "protect")
    assert made["files"][0].keys() == {
        "path",
        "sidecar",
        "carrier",
        "errors",
        "guaranteed",
        "bound",
        "measured",
        "noticed",
        "missed",
        "erasures",
        "elements",
        "covered",
        "seal_bytes",
        "header_bytes",
        "bytes",
        "covered_bytes",
        "moved",
        "kept",
    }
    faults = json.loads(run("inject", model, "-o", broken, "-f", "zero", "-n", 3, "--json")[1])
    report = json.loads(run("check", broken, "--json")[1])
    assert report["verdict"] == "correctable"
    [file] = report["files"]
    assert file.keys() == {
        "path",
        "verdict",
        "carrier",
        "errors",
        "elements",
        "covered",
        "seal",
        "header",
        "frame",
        "missing_bytes",
        "surplus_bytes",
        "unreadable",
        "written",
        "ranges",
        "fetched",
        "problem",
        "note",
        "words",
    }
    [word] = file["words"]
    assert word.keys() == {
        *("name", "verdict", "elements"),
        *("unexplained", "reason", "proof", "changes"),
    }
    before = {(f["tensor"], f["index"]): f["before"] for f in faults["faults"]}
    for change in word["changes"]:
        flat = int(np.ravel_multi_index(change["index"], (64, 50)[: len(change["index"])]))
        assert int(before[change["tensor"], flat], 16) == int.from_bytes(
            bytes.fromhex(change["original"]), "little"
        )
        assert change["received_value"] == 0.0
    repaired = json.loads(run("repair", broken, "--in-place", "--json")[1])
    assert repaired["files"][0]["words"][0]["changes"] == word["changes"]
    inspected = json.loads(run("inspect", model, "--json")[1])
    assert {tensor["name"] for tensor in inspected["files"][0]["tensors"]} == {
        "fc.weight",
        "fc.bias",
    }
    planned = json.loads(run("plan", model, "--json")[1])
    assert planned["files"][0]["words"][0]["elements"] == 3264


def test_repairing_in_part_must_be_asked_for(model, run):
    run("protect", model, "--per", "tensor", "--errors", 3)
    content = bytearray(model.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    found = json.loads(run("inspect", model, "--json")[1])["files"][0]["tensors"]
    first = found[0]["bytes"]
    damaged = content.copy()
    damaged[start] ^= 1
    damaged[start + first :] = bytes(len(content) - start - first)
    model.write_bytes(damaged)
    status, out = run("repair", model, "--in-place")[:2]
    assert status == 1
    assert "written: nothing" in out
    assert f"put back what is proven: parimend repair {model} --in-place --partial" in out
    assert model.read_bytes() == damaged
    status, out = run("repair", model, "--in-place", "--partial")[:2]
    assert status == 1
    assert f"written: {model}" in out
    assert "--partial" not in out
    assert "corrected" in out.replace("uncorrectable", "")
    assert model.read_bytes()[: start + first] == content[: start + first]
    assert model.read_bytes()[start + first :] == damaged[start + first :]


def test_what_to_do_is_said_and_does_it(model, run, tmp_path):
    odd = model.rename(tmp_path / f"my {'very ' * 40}long model.safetensors")
    run("protect", odd, "--errors", 3)
    assert "remedy" not in run("check", odd)[1]
    assert json.loads(run("check", odd, "--json")[1])["remedies"] == {}
    content = bytearray(odd.read_bytes())
    content[-1] ^= 1
    odd.write_bytes(content)
    code, out, _ = run("check", odd)
    told = f"{odd}: repair it: parimend repair '{odd}' --in-place"
    assert code == 1
    assert told in out.splitlines()
    [(path, remedy)] = json.loads(run("check", odd, "--json")[1])["remedies"].items()
    assert told == f"{path}: {remedy}"
    assert run(*shlex.split(remedy.partition("parimend ")[2]))[0] == 0
    content[-90:] = bytes(90)
    odd.write_bytes(content)
    os.utime(odd, (0, 0))  # as damage leaves it
    assert "cannot be repaired here: fetch it again" in run("check", odd)[1]


def test_values_without_a_number_in_json_are_text(model, run):
    run("protect", model)
    content = bytearray(model.read_bytes())
    content[-4:] = np.float32("nan").tobytes()
    model.write_bytes(content)
    out = run("check", model, "--json")[1]
    assert json.loads(out)["files"][0]["words"][0]["changes"][0]["received_value"] == "nan"
    assert "NaN" not in out


def test_several_findings_and_the_bytes_of_elements_are_listed(model, run, monkeypatch):
    run("protect", model)
    content = bytearray(model.read_bytes())
    content[10] ^= 1
    content[-4:] = np.float32(1.0).tobytes()
    model.write_bytes(content + b"xy")
    monkeypatch.chdir(model.parent)  # a short name, so that no line is folded
    code, out, _ = run("check", "--list", model.name)
    assert code == 1
    assert "\\n" not in out
    assert "2 bytes too many after the end; header damaged, can be restored; 1 wrong" in out
    assert "1.0 (0000803f)" in out
    # The same as the report of a Python program.
    said = json.loads(run("check", model, "--json")[1])
    assert said["files"] == pm.check_file(model).as_dict()["files"]


def test_of_many_wrong_words_the_first_are_named_in_a_table_and_all_in_json(tmp_path, run):
    path, arrays = tmp_path / "m.safetensors", {f"l{i}": np.ones(9, np.float32) for i in range(9)}
    safetensors.numpy.save_file(arrays, path)
    run("protect", path, "--errors", 2, "--per", "tensor")
    for each in list(arrays)[:8]:
        arrays[each][: 4 if each < "l2" else 1] = 5.0
    safetensors.numpy.save_file(arrays, path)
    code, out, _ = run("check", path)
    row = next(line for line in out.splitlines() if line.startswith(str(path)))
    named = re.findall(r"l\d", row)
    assert code == 1
    assert named == ["l0", "l1", "l2", "l3", "l4"]
    assert "; 3 more protected words: correctable" in row
    _, out, _ = run("check", path, "--json")
    [file] = json.loads(out)["files"]
    assert sum(word["verdict"] != "clean" for word in file["words"]) == 8
    said = pm.check_file(path).files[0].findings
    assert [each[:2] for each in said[:8]] == [f"l{i}" for i in range(8)]


def test_damage_can_be_replayed(model, run, tmp_path):
    first, second, faults = tmp_path / "1", tmp_path / "2", tmp_path / "faults.jsonl"
    run("inject", model, "-o", first, "-f", "burst", "-n", 7, "--seed", 5, "--save", faults)
    assert run("inject", model, "-o", second, "--replay", faults)[0] == 0
    assert first.read_bytes() == second.read_bytes() != model.read_bytes()
    assert run("inject", first, "-o", second, "--replay", faults)[0] == 2  # struck already


def test_only(model, run, tmp_path):
    broken = tmp_path / "broken.safetensors"
    run("protect", model, "--only", "fc.b*")
    run("inject", model, "-o", broken, "-f", "sign", "-n", 3, "--only", "*.weight")
    code, out, _ = run("check", broken)
    assert (code, "64 of 3,264" in out) == (0, True)


@pytest.mark.parametrize("carrier", ["real", "lowbits"])
def test_other_carriers(model, run, tmp_path, carrier):
    out = tmp_path / "out.safetensors"
    broken = tmp_path / "broken.safetensors"
    assert run("protect", model, "-o", out, "--carrier", carrier, "-e", 20)[0] == 0
    run("inject", out, "-o", broken, "-f", "bitflip", "-n", 20)
    assert run("check", broken)[0] == 1
    assert run("repair", broken, "--in-place")[0] == 0
    assert broken.read_bytes() == out.read_bytes()
    assert run("plan", model, "--carrier", carrier)[0] == 0


def test_a_plan_meets_a_target_or_says_why(model, run):
    plan = ["plan", model, "--environment", "leo"]
    code, out, _ = run(*plan, "--target", "1e-6")
    assert code == 0
    assert "guaranteed  any" in out
    assert "source      leo: low Earth orbit" in out
    errors = json.loads(run(*plan, "--target", "1e-6", "--json")[1])["errors"]
    assert f"command     parimend protect {model} --carrier sidecar --errors {errors}\n" in out
    fit = -math.expm1(-10 * 1e-9 * 8766)
    made = json.loads(run(*plan, "--fit", "10", "--json")[1])
    assert made["risk"]["unrepaired"] == pytest.approx(fit, rel=1e-3)
    assert made["risk"]["fit"] == pytest.approx(10, rel=1e-3)
    assert made["reason"] == ""
    code, out, _ = run(*plan, "--errors", "3", "--events", "1:0.5,64:0.5", "--target", "1e-9")
    assert code == 1
    assert "not met     single events of more than 3 words leave" in out
    assert "command  " not in out
    assert "events as given; else low Earth orbit" in out
    assert "source      given: rate" in run("plan", model, "--rate", "1e-9")[1]


def test_a_seal_is_not_taken_for_a_file(model, run):
    run("protect", model)
    seal = f"{model}.parimend"
    for command in ("protect", "check", "inspect"):
        code, out, err = run(command, seal)
        assert (code, out) == (2, "")
        assert err.startswith(f"parimend: {seal} is a seal")
        assert err.endswith("name the file that it belongs to\n")
    assert sorted(os.listdir(model.parent)) == [model.name, f"{model.name}.parimend"]
    assert run("check", model)[0] == 0


def test_the_interval_that_is_printed_meets_the_target(model, run):
    for target in (1e-6, 3e-6, 1e-5, 4e-5):
        plan = ["plan", model, "--environment", "leo", "--target", target]
        out = run(*plan)[1]
        errors = re.search(r"(\d+) errors in each protected word", out).group(1)
        number, unit = re.search(r"checked     every (?:(\S+) )?(day|hour)", out).groups()
        interval = (number or "1") + unit[0]
        code, out, _ = run(*plan, "--errors", errors, "--interval", interval)
        assert code == 0, out


def test_a_plan_says_how_its_figures_are_meant(model, run):
    plan = ["plan", model, "--rate", "1e-12"]
    out = run(*plan, "-e", "64")[1]
    left = r"in a year at most, if events come as given: every repair is proven"
    assert re.search(rf"unrepaired  less than 1e-\d\d {left}; less than 1e-\d\d FIT", out)
    assert re.search(r"unrepaired  [\d.e-]+ in a year", run(*plan, "-e", "1")[1])
    assert re.search(r"events .* a year; [\d.e-]+ checks a year find damage and repair it", out)
    rows = run(*plan, "-e", "1", "--per", "row", "--verify", "5")[1]
    assert re.search(r"lost something in the first 8 of \d+ words, at", rows)
    whole = run(*plan, "-e", "1", "--verify", "5")[1]
    assert "lost something, at" in whole


def test_a_plan_is_simulated(model, run):
    plan = ["plan", model, "-e", "4", "--rate", "1e-9", "--interval", "12h", "--verify", "50"]
    out = run(*plan)[1]
    assert "of 50 years of 12 checks lost something" in out
    assert "wrong answers 0" in out
    assert "checked     every 12 hours" in out
    simulated = json.loads(run(*plan, "--json")[1])["simulation"]
    assert simulated["years"] == 50


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["plan", "MODEL", "--environment", "moon"], "unknown environment 'moon': there are sea-"),
        (
            ["plan", "MODEL", "--rate", "-1"],
            "rate must be a probability per bit from 0 to 1, not -1.0",
        ),
        (["plan", "MODEL", "--events", "1:0.5"], "shares of events must add up to 1, not 0.5"),
        (["plan", "MODEL", "--target", "1e-6"], "say where, such as sea-level-dram"),
        (["plan", "MODEL", "--rate", "0", "--verify", "9"], "there is no rate"),
        (["plan", "MODEL", "--events", "1:1"], "not how often one comes: give --rate, or"),
        (["plan", "MODEL", "--verify", "9"], "--verify: for an environment: say where"),
        (["plan", "MODEL", "--years", "1"], "--years: for an environment: say where"),
        (["plan", "MODEL", "--fit", "1", "--target", "0.1"], "say the same: give one of them"),
        (["plan", "MODEL", "--environment", "leo", "--fit", "1e9"], "--fit 1e+09 is failures all"),
        (["plan", "MODEL", "--interval", "soon"], "such as 12h, not 'soon'"),
        (["check", "MODEL"], "MODEL is not protected"),
        (["check", "nothing"], "nothing: No such file or directory"),
        (["check"], "Missing argument"),
        (["check", "--color"], "No such option"),
        (["mend"], "No such command 'mend'"),
        (["repair", "MODEL"], "give either -o DST or --in-place"),
        (["repair", "MODEL", "-o", "x", "--in-place"], "give either -o DST or --in-place"),
        (["protect", "MODEL", "--carrier", "real"], "say where to write the new file, with -o"),
        (["protect", "MODEL", "--errors", "0"], "Invalid value for '--errors'"),
        (["protect", "MODEL", "--only", "x*"], "no tensor matches 'x*'"),
        (["plan", "MODEL", "--carrier", "real", "-e", "3000"], "3000"),
        (["protect", "MODEL", "--guaranteed", "0"], "Invalid value for '--guaranteed'"),
        (
            ["protect", "MODEL", "--guaranteed", "211"],
            "guaranteed, a part of errors, must be from 1 to 210",
        ),
        (["protect", "MODEL", "-e", "2000", "--guaranteed", "5"], "guarantee 4, not 5: ask for at"),
        (
            ["protect", "MODEL", "-o", "OUT", "--carrier", "lowbits", "--guaranteed", "1"],
            "the lowbits carrier guarantees nothing",
        ),
        (["inject", "MODEL", "-o", "x"], "give either --fault KIND or --replay FILE"),
        (
            ["inject", "MODEL", "-o", "x", "--replay", "x", "-n", "1", "--only", "*"],
            "--count, --only: --replay does the faults that are listed, all of them",
        ),
        (["propagate", "recipe:model", "--buffers"], "--buffers: for wrong weights: add --weights"),
        (
            ["propagate", "recipe:model", "--weights", "zero", "--size", "2"],
            "--size: for wrong outputs: add --upset",
        ),
        (["demo", "--root", "OUT"], "--root: digits come with scikit-learn: say what is there"),
        (["inject", "MODEL", "-o", "MODEL", "-f", "sign"], "MODEL is read by this command, too"),
        (["inject", "MODEL", "-o", "OUT", "-f", "rust"], "unknown kind of damage 'rust'"),
    ],
)
def test_errors_are_one_line(model, run, tmp_path, arguments, says):
    places = {"MODEL": str(model), "OUT": str(tmp_path / "out")}
    code, out, err = run(*[places.get(argument, argument) for argument in arguments])
    assert (code, out) == (2, "")
    assert err.startswith("parimend: ")
    assert err.count("\n") == 1
    assert says.replace("MODEL", str(model)) in err
    assert os.listdir(tmp_path) == [model.name]


def test_a_bad_sector_is_told_and_repaired(tmp_path, run, monkeypatch):
    path = tmp_path / "weights.bin"
    path.write_bytes(good := bytes(range(1, 256)) * 400)
    run("protect", path, "--errors", 600)
    node, read = path.stat().st_ino, os.preadv

    def refusing(descriptor, buffers, at):
        ends = at + sum(map(len, buffers))
        if os.fstat(descriptor).st_ino == node and at < 8192 and ends > 4096:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(descriptor, buffers, at)

    monkeypatch.setattr("os.preadv", refusing)
    status, out, _ = run("check", path)
    assert status == 1
    assert "4,096 bytes in one range cannot be read from the disk" in out
    status, out, _ = run("check", path, "--json")
    assert status == 1
    assert json.loads(out)["files"][0]["unreadable"] == [[4096, 8192]]
    status, out, _ = run("repair", path, "--in-place")
    assert status == 0
    assert path.read_bytes() == good


def test_uncorrectable_is_a_finding(model, run, tmp_path):
    broken = tmp_path / "broken.safetensors"
    run("protect", model, "--errors", 3)
    run("inject", model, "-o", broken, "-f", "random", "-n", 500)
    assert run("check", broken)[0] == 1
    code, out, _ = run("repair", broken, "--in-place")
    assert (code, "uncorrectable: more damage than the code can repair" in out) == (1, True)


def test_names_are_not_markup(model, run):
    odd = model.with_name("[red]m[red].safetensors")
    model.rename(odd)
    run("protect", odd)
    assert odd.name in run("check", odd)[1]


def test_the_installed_command():
    done = subprocess.run([sys.executable, "-m", "parimend", "--version"], capture_output=True)
    assert re.fullmatch(rb"\d+\.\d+\.\d+\n", done.stdout)


@pytest.fixture
def folder(model, rng):
    """A folder of three files of weights, and one that holds none."""
    for name in ("a", "b"):
        arrays = {name: rng.standard_normal((40, 50), dtype=np.float32)}
        safetensors.numpy.save_file(arrays, model.with_name(f"{name}.safetensors"))
    (model.parent / "config.json").write_bytes(b"{}")
    return model.parent


def test_what_is_left_out_is_said(folder, run):
    code, out, _ = run("protect", folder)
    said = "left out, as not known to hold weights: config.json (--all protects them)"
    assert (code, said in out) == (0, True)
    code, out, _ = run("protect", folder)
    assert (code, out.count("(kept)")) == (0, 3)
    made = json.loads(run("protect", folder, "--json")[1])
    assert (made["left_out"], made["others"], made["problems"]) == ([], ["config.json"], [])
    assert [file["kept"] for file in made["files"]] == [True] * 3
    made = json.loads(run("protect", folder, "--all", "--json")[1])
    assert [file["kept"] for file in made["files"]] == [True, True, False, True]
    assert made["others"] == []


def test_a_report_goes_on_after_a_file_that_cannot_be_looked_at(folder, run, rng):
    run("protect", folder)
    (folder / "a.safetensors").unlink()
    flip_bit(folder / "b.safetensors")
    code, out, _ = run("check", folder)
    assert code == 1
    assert "missing: " in out
    assert "1 wrong element, can be corrected" in out
    code, out, _ = run("check", folder, "--json")
    report = json.loads(out)
    assert (code, report["verdict"]) == (1, "unknown")
    assert [file["verdict"] for file in report["files"]] == ["unknown", "correctable", "clean"]
    assert report["files"][0]["problem"].startswith("missing")
    code, out, _ = run("repair", folder, "--in-place")
    assert (code, "1 wrong element, corrected" in out) == (1, True)
    code, out, _ = run("inspect", folder, "--json")
    assert code == 1
    assert [file.get("problem", "")[:7] for file in json.loads(out)["files"]] == ["", "", "missing"]
    code, out, _ = run("inspect", folder)
    assert (code, "a.safetensors: missing" in out) == (1, True)


def test_little_coverage_is_a_warning(model, run):
    code, _, err = run("protect", model, "--only", "fc.b*")
    assert code == 0
    assert "warning: 1.96% of the bytes are protected" in err


def test_what_is_for_developers_is_no_warning(model, run, monkeypatch):
    def check(*arguments, **options):
        for category in (DeprecationWarning, ResourceWarning, UserWarning):
            warnings.warn(f"a {category.__name__}", category, stacklevel=1)
        return check_all(*arguments, **options)

    pm.protect_file(model, errors=5)
    monkeypatch.setattr("parimend.files.check_all", check)
    code, _, err = run("check", model)
    assert (code, err) == (0, "parimend: warning: a UserWarning\n")


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    """A folder of two files, one with a certificate in its seal and one without."""
    folder = tmp_path_factory.mktemp("certified")
    source = folder / "a.safetensors"
    rng = np.random.default_rng(0)
    weights = {"fc.weight": rng.standard_normal((512, 10), dtype=np.float32)}
    safetensors.numpy.save_file(weights, source)
    out = folder / "b.safetensors"
    pm.protect_file(source, 210, pm.Real(rows=320), out, guaranteed=3)
    pm.protect_file(source, 210)
    return folder


def seal_of(path):
    [sealed] = seals_of(path)[0].values()
    return sealed.seal


class TestCertificates:
    def test_asked_for_shown_and_verified(self, model, run, tmp_path, rng):
        out = tmp_path / "out.safetensors"
        asked = ["--carrier", "real", "-e", 210, "--guaranteed", 3]
        weights = {"fc.weight": rng.standard_normal((512, 10), dtype=np.float32)}
        safetensors.numpy.save_file(weights, model)
        code, said, _ = run("protect", model, "-o", out, *asked)
        assert code == 0
        assert re.search(r"210 +3 +- +210, failing <= 0.001", said)
        code, said, _ = run("inspect", out)
        assert (code, "real, 210 errors (3 guaranteed, 210 measured); seal in" in said) == (0, True)
        assert "certificate, not verified now: any 3 wrong words of 5,120 are repaired" in said

    def test_every_certificate_of_a_folder_is_verified(self, certified, run):
        code, said, err = run("inspect", certified, "--verify-certificate")
        assert (code, err) == (0, "")
        assert f"{certified / 'b.safetensors'}: fc.weight: certificate, verified: any 3" in said
        files = json.loads(run("inspect", certified, "--verify-certificate", "--json")[1])["files"]
        first, second = (file["words"][0] for file in files)
        assert first["certificate"] is None
        assert (first["guaranteed"], first["measured"], first["noticed"]) == (210, None, 4)
        assert (second["guaranteed"], second["bound"], second["noticed"]) == (3, None, 6)
        assert second["measured"] == {
            "errors": 210,
            "probability": 0.001,
            "what": "random damage",
        }
        proof = second["certificate"]
        assert (proof["errors"], proof["verified"], proof["problem"]) == (3, True, "")
        plain = json.loads(run("inspect", certified, "--json")[1])["files"]
        assert "verified" not in plain[1]["words"][0]["certificate"]
        for file in plain:
            assert {"guaranteed", "bound", "measured", "noticed", "missed"} <= file.keys()

    def test_one_that_does_not_verify_is_a_finding(self, certified, run, tmp_path):
        weights = pm.load_file(certified / "b.safetensors")
        sealed = seal_of(certified / "b.safetensors")
        [word] = sealed.words
        false = replace(word.certificate, pair=word.certificate.pair + 1)
        seal = replace(sealed, words=(replace(word, certificate=false),), blobs={})
        path = tmp_path / "model.safetensors"
        save_file(weights, path)
        seal.save(tmp_path / "model.parimend")
        assert run("inspect", path)[0] == run("check", path)[0] == 0
        code, said, _ = run("inspect", path, "--verify-certificate")
        assert code == 1
        assert f"{path}: fc.weight: its certificate does not verify: " in said
        code, said, _ = run("inspect", path, "--verify-certificate", "--json")
        proof = json.loads(said)["files"][0]["words"][0]["certificate"]
        assert (code, proof["verified"]) == (1, False)
        assert "not that of its code" in proof["problem"]

    def test_none_to_verify_is_an_error(self, certified, run):
        code, out, err = run("inspect", certified / "a.safetensors", "--verify-certificate")
        assert (code, out) == (2, "")
        assert "a.safetensors has no certificate to verify: " in err
        assert "--guaranteed 3 makes one" in err


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A module in this folder with functions for `propagate`."""
    (tmp_path / "made_here.py").write_text(
        "import torch\n"
        "def model(width='4'):\n"
        "    torch.manual_seed(0)\n"
        "    layers = torch.nn.Linear(4, int(width)), torch.nn.Linear(int(width), 3)\n"
        "    return torch.nn.Sequential(*layers).eval(), torch.ones(2, 4)\n"
        "def read(name):\n"
        "    open(name).close()\n"
        "    return model()\n"
        "def asked():\n"
        "    return *model(), lambda y: y.argmax(1)\n"
        "def quantized():\n"
        "    model = torch.nn.Linear(4, 5)\n"
        "    del model.weight\n"
        "    model.bias = torch.nn.Parameter(torch.zeros(1))\n"
        "    model.register_buffer('weight', torch.ones(5, 4, dtype=torch.int8))\n"
        "    model.forward = lambda x: x @ model.weight.to(x.dtype).T + model.bias\n"
        "    return torch.nn.Sequential(model).eval(), torch.ones(2, 4)\n"
        "def needs_more(it):\n"
        "    return 1\n"
        "def nothing():\n"
        "    return 1\n"
        "def prints():\n"
        "    import os\n"
        "    os.system('echo printed by a child')\n"
        "    print('printed')\n"
        "    return model()\n"
        "def prints_at_exit():\n"
        "    import atexit, ctypes\n"
        "    atexit.register(print, 'printed at exit')\n"
        "    atexit.register(ctypes.CDLL(None).puts, b'printed in C')\n"
        "    return model()\n"
        "def forks():\n"
        "    import os\n"
        "    if os.fork() == 0:\n"
        "        raise SystemExit(0)\n"
        "    os.wait()\n"
        "    return model()\n"
        "def ends():\n"
        "    raise SystemExit(0)\n"
        "def is_cancelled():\n"
        "    import asyncio\n"
        "    raise asyncio.CancelledError('too late')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("made_here", None)


def test_propagate(made, run):
    status, out, _ = run("propagate", "made_here:model", 6, "--seeds", 6, "--json")
    found = json.loads(out)
    assert (status, found["command"], found["faults"]) == (0, "propagate", 6)
    assert [(each["layer"], each["upset"]) for each in found["struck"]] == [
        ("0", "bitflip"),
        ("1", "bitflip"),
    ]
    options = ("--weights", "zero", "--upset", "offset", "--size", 0.5, "--only", "1")
    status, out, _ = run("propagate", "made_here:asked", *options, "--seeds", 2)
    assert status == 0
    assert "offset of 0.5" in out
    assert "weights: zero x 1" in out
    assert "gain" in out


def test_what_code_of_users_prints_is_no_part_of_the_object(made, run):
    command = ["propagate", "made_here:prints", "--seeds", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "parimend", *command, "--json"], capture_output=True, text=True
    )
    assert json.loads(done.stdout)["command"] == "propagate"
    assert sorted(done.stderr.splitlines()) == ["printed", "printed by a child"]
    assert "printed\n" in run(*command)[1]


@pytest.mark.long
@pytest.mark.parametrize(
    ("maker", "printed"),
    [("prints_at_exit", ["printed at exit", "printed in C"]), ("forks", [])],
)
def test_nor_is_what_it_prints_afterwards_or_elsewhere(made, maker, printed):
    command = [sys.executable, "-m", "parimend", "propagate", f"made_here:{maker}", "--json"]
    done = subprocess.run([*command, "--seeds", "1"], capture_output=True, text=True)
    assert (done.returncode, json.loads(done.stdout)["command"]) == (0, "propagate")
    assert sorted(done.stderr.splitlines()) == printed


def test_code_of_users_that_is_cancelled(made, run):
    """That is no `Exception`, and would end Python with a status that says something else."""
    status, out, err = run("propagate", "made_here:is_cancelled", "--json")
    assert (status, json.loads(out)["error"]) == (2, "stopped by CancelledError: too late")
    assert err == "parimend: stopped by CancelledError: too late\n"


@pytest.mark.parametrize("taken", ["kept", "led to", "read"])
def test_tables_that_lie_beside_the_table_replace_nothing_either(made, run, tmp_path, taken):
    """They are known when the answer is, which is printed."""
    beside, kept = tmp_path / "t-layers-passed.csv", tmp_path / "kept"
    kept.write_text("precious")
    kept.rename(beside) if taken != "led to" else beside.symlink_to(kept)
    if taken != "read":
        run("protect", kept if taken == "led to" else beside)
    there = sorted(os.listdir())
    function = ["made_here:read", beside.name] if taken == "read" else ["made_here:model"]
    options = ("--csv", "t.csv", "--html", "t.html", "--seeds", 1)
    status, out, err = run("propagate", *function, *options)
    assert (status, "gain" in out, beside.name in err) == (2, True, True)
    assert (beside.read_text(), sorted({*os.listdir()} - {"__pycache__"})) == ("precious", there)


def test_propagate_in_buffers(made, run):
    command = ("propagate", "made_here:quantized", "--weights", "bitflip", "--seeds", 2)
    status, out, err = run(*command, "--json")
    found = json.loads(out)
    assert (status, found["buffers"]) == (0, False)
    assert found["note"].startswith("4 of 24 bytes of weights can be struck: the others are buff")
    assert err == f"parimend: warning: {found['note']}\n"
    assert run(*command)[2] == err
    status, out, err = run(*command, "--buffers", "--json")
    found = json.loads(out)
    assert (status, found["buffers"], found["note"], err) == (0, True, "", "")
    assert {each["at"] for each in found["struck"][0]["by_bit"]} <= set(range(8))
    assert "weights and buffers: bitflip x 1" in run(*command, "--buffers")[1]
    status, _, err = run("propagate", "made_here:quantized", "--buffers")
    assert (status, "add --weights KIND" in err) == (2, True)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("made_here", "names no function: give MODULE:FUNCTION"),
        ("made_here:", "names no function"),
        ("nowhere:model", "module 'nowhere' cannot be imported"),
        ("made_here:other", "has no function 'other'"),
        ("made_here:nothing", "must give (model, inputs)"),
        ("made_here:ends", "ended the program instead (SystemExit: 0): let it return"),
        ("made_here:needs_more", "made_here:needs_more failed: TypeError: needs_more() missing 1"),
    ],
)
def test_propagate_names_what_is_missing(made, run, source, says):
    status, _, err = run("propagate", source)
    assert status == 2
    assert says in err


def test_choices_are_those_of_the_library():
    """They are written down once more, as the library takes longer to load than a help text may."""
    for option, names in ((CarrierOption, CarrierName), (PerOption, Per)):
        assert get_args(get_args(option)[0]) == get_args(names)
