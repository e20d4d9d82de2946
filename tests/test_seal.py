import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import parimend as pm
from parimend.armor import armor, unarmor
from parimend.errors import SealError
from parimend.faults import draw
from parimend.outcomes import Verdict

GOLDEN = Path(__file__).parent / "golden"
CARRIERS = ["sidecar", "real", "lowbits"]


def golden(carrier):
    flat = np.frombuffer((GOLDEN / f"seal-{carrier}.f32").read_bytes(), "<f4").copy()
    tensors = {
        "fc.weight": torch.from_numpy(flat[:1500].reshape(30, 50)),
        "fc.bias": torch.from_numpy(flat[1500:]),
    }
    return tensors, GOLDEN / f"seal-{carrier}.parimend"


@pytest.mark.parametrize("carrier", CARRIERS)
def test_seals_of_version_1_stay_readable_for_ever(carrier):
    tensors, path = golden(carrier)
    seal = pm.Seal.load(path)
    assert (seal.carrier, seal.errors) == (carrier, 10)
    assert seal.to_bytes() == path.read_bytes()
    assert pm.check(tensors, seal).verdict is Verdict.CLEAN
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    words = {name: tensor.numpy() for name, tensor in tensors.items()}
    draw("bitflip", words, 10, seed=1).apply_(words)
    assert pm.repair_(tensors, seal).verdict is Verdict.CORRECTED
    assert all(torch.equal(tensors[name], before[name]) for name in tensors)


def test_a_certified_seal_of_version_1_stays_readable_for_ever():
    tensors, path = golden("certified")
    seal = pm.Seal.load(path)
    assert seal.to_bytes() == path.read_bytes()
    assert (seal.carrier, seal.errors, seal.promise.guaranteed) == ("real", 20, 3)
    seal.verify_certificates()
    assert pm.check(tensors, seal).verdict is Verdict.CLEAN
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    words = {name: tensor.numpy() for name, tensor in tensors.items()}
    draw("bitflip", words, 3, seed=1).apply_(words)
    assert pm.repair_(tensors, seal).verdict is Verdict.CORRECTED
    assert all(torch.equal(tensors[name], before[name]) for name in tensors)


def test_a_seal_is_read_without_loading_what_proves_it():
    script = (
        "import sys; from parimend.seal import Seal; seal = Seal.load(sys.argv[1])\n"
        "assert seal.promise.guaranteed == 3\n"
        "assert not {'torch', 'parimend.decoders'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, golden("certified")[1]], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("carrier", [*CARRIERS, "certified"])
@given(data=st.data())
def test_a_damaged_seal_is_repaired_or_refused_never_misread(carrier, data):
    original = golden(carrier)[1].read_bytes()
    damaged = bytearray(original)
    start = data.draw(st.integers(0, len(damaged) - 1))
    length = data.draw(st.integers(1, 120))
    noise = data.draw(st.binary(min_size=length, max_size=length))
    damaged[start : start + length] = noise[: len(damaged) - start]
    try:
        assert pm.Seal.from_bytes(bytes(damaged)).to_bytes() == original
    except SealError:
        assert length > 48


def reworded(change, carrier="sidecar"):
    """A well-armored seal whose text was changed."""
    payload = bytes(unarmor(golden(carrier)[1].read_bytes(), "golden")[0])
    (length,) = struct.unpack_from("<I", payload)
    text = json.loads(payload[4 : 4 + length])
    change(text)
    encoded = json.dumps(text).encode()
    return armor(struct.pack("<I", len(encoded)) + encoded + payload[4 + length :])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.update(version=3), "version"),
        (lambda text: text.pop("words"), "words"),
        (lambda text: text["words"][0]["code"].update(family="runes"), "unknown code family"),
        (lambda text: text["words"][0]["code"].update(bands=99), "bands"),
        (lambda text: text["words"][0]["code"].update(m=10**12), ""),
        (lambda text: text["words"][0].update(checks=10**15), "shorter"),
        (lambda text: text["words"][0].update(checks=-1), ""),
        (lambda text: text["words"][0].update(sha256="zz"), ""),
        (lambda text: text["tensors"][0].__setitem__(2, [10**9, 10**9]), ""),
        (lambda text: text["tensors"][0].__setitem__(1, "F31"), ""),
        (lambda text: text["words"][0].update(parts=[[0, 9]]), ""),
        (lambda text: text["words"][0].update(parts=[[0, 1], [0, 1]]), "overlap"),
        (lambda text: text["words"][0].update(checks=True), "shorter"),
        (lambda text: text.update(errors=-13), "number of errors"),
        (lambda text: text.update(errors=True), "number of errors"),
        (lambda text: text.update(errors=10**30), "number of errors"),
        (lambda text: text.update(carrier="pigeon"), "carrier"),
        (lambda text: text.update(notes={"x": float("nan")}), "NaN is no JSON"),
        (lambda text: text["tensors"].__setitem__(1, text["tensors"][0]), "same name"),
    ],
)
def test_text_that_makes_no_sense_is_one_clear_error(change, message):
    with pytest.raises(SealError, match=f"model.parimend.*{message}"):
        pm.Seal.from_bytes(reworded(change), "model.parimend")


@pytest.mark.parametrize(
    "quoted",
    ["A" * 10**6, "\x1b[2J\n\u202e\ud800", 10**4000, [[1] * 10**5]],
    ids=["text", "control", "number", "list"],
)
@pytest.mark.parametrize(
    "where", ["version", "carrier", "dtype", "family", "n", "unknown", "parts"]
)
def test_what_makes_no_sense_is_quoted_in_one_short_line(where, quoted):
    def change(text):
        word, code = text["words"][0], text["words"][0]["code"]
        match where:
            case "dtype":
                text["tensors"][0][1] = quoted
            case "unknown":
                code[str(quoted)] = 1
            case "parts":
                word["parts"] = [[quoted, 0]]
            case _:
                (code if where in code else text)[where] = quoted

    with pytest.raises(SealError, match=r"^model\.parimend: the seal cannot be read: ") as raised:
        pm.Seal.from_bytes(reworded(change), "model.parimend")
    assert len(message := str(raised.value)) < 500
    assert message.isprintable()


@pytest.mark.parametrize(
    ("carrier", "change"),
    [
        ("real", {"dtype": "BF16"}),
        ("real", {"dtype": "I8"}),
        ("lowbits", {"dtype": "I32"}),
        ("real", {"exponent": -5000}),
        ("real", {"exponent": 1000}),
        ("real", {"m": 10**30}),
        ("real", {"m": 10**9, "free": 10**9, "weights": [[2, 1000], [10**8, 0]]}),
        ("real", {"weights": [[2, 900], [65, 100]]}),
        ("real", {"word_bits": 25}),
        ("lowbits", {"family": "sparse"}),
        ("real", {"family": "gaussian"}),
    ],
)
def test_codes_that_do_not_fit_their_tensors_are_refused(carrier, change):
    def apply(text):
        word = text["words"][0]
        for tensor in text["tensors"]:
            tensor[1] = change.get("dtype", tensor[1])
        for part in word["parts"]:
            if len(part) == 4:
                part[3] = change.get("exponent", part[3])
        word["code"].update({k: v for k, v in change.items() if k not in ("dtype", "exponent")})

    with pytest.raises(SealError, match="seal cannot be read"):
        pm.Seal.from_bytes(reworded(apply, carrier), "model.parimend")


PROOF = {"errors": 3, "pair": 10**7, "sets": [[6, 40]]}


@pytest.mark.parametrize(
    ("proof", "says"),
    [
        ({**PROOF, "errors": 4}, "is for 1 to 3 wrong words, not for 4"),
        ({**PROOF, "errors": 0}, "is for 1 to 3 wrong words, not for 0"),
        ({**PROOF, "errors": True}, "whole numbers"),
        ({**PROOF, "errors": 3.0}, "whole numbers"),
        ({**PROOF, "pair": 786_431}, "pairs of 786431 proves nothing of words of 18 bits"),
        ({**PROOF, "pair": "10"}, "whole numbers"),
        ({**PROOF, "sets": [[3, 40]]}, r"counts sets of 4 to 6 columns .* not of \[3\]"),
        ({**PROOF, "sets": [[7, 40]]}, r"not of \[7\]"),
        ({**PROOF, "sets": [[6, 1], [5, 1]]}, r"not of \[6, 5\]"),
        ({**PROOF, "sets": [[6, 1], [6, 1]]}, r"not of \[6, 6\]"),
        ({**PROOF, "sets": [[6, 0]]}, "counts sets"),
        ({**PROOF, "sets": [[6]]}, "in pairs"),
        ({**PROOF, "sets": 6}, "in pairs"),
        ({**PROOF, "sets": [["6", 1]]}, "whole numbers"),
        ({**PROOF, "more": 1}, "consists of errors, pair, sets"),
        ({"errors": 3}, "consists of errors, pair, sets"),
        ([3, 10**7, []], "consists of errors, pair, sets"),
        (None, "consists of errors, pair, sets"),
    ],
)
def test_a_certificate_that_cannot_be_that_of_its_code_is_refused(proof, says):
    def apply(text):
        text["words"][0]["certificate"] = proof

    message = (
        f"model.parimend: .*fc.weight .. fc.bias: its certificate does not fit its code.*{says}"
    )
    with pytest.raises(SealError, match=message):
        pm.Seal.from_bytes(reworded(apply, "certified"), "model.parimend")


@pytest.mark.parametrize("carrier", ["sidecar", "lowbits"])
def test_codes_of_other_families_have_no_certificate(carrier):
    def apply(text):
        text["words"][0]["certificate"] = PROOF

    with pytest.raises(SealError, match="certificates are of sparse codes"):
        pm.Seal.from_bytes(reworded(apply, carrier), "model.parimend")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda word: word["certificate"].update(pair=10**8), "it states 100000000 and"),
        (lambda word: word["certificate"].update(sets=[]), "not that of its code"),
        (lambda word: word["code"].update(seed=8), "not that of its code"),
        (lambda word: word["code"].update(coefficient_bits=12), r"columns \d+ and \d+ may cancel"),
    ],
)
def test_a_false_certificate_does_not_verify(change, says):
    seal = pm.Seal.from_bytes(reworded(lambda text: change(text["words"][0]), "certified"))
    message = f"fc.weight .. fc.bias: its certificate does not verify: .*{says}"
    with pytest.raises(SealError, match=message):
        seal.verify_certificates()


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_seal_without_a_certificate_does_not_pass_for_verified(carrier):
    seal = pm.Seal.load(golden(carrier)[1])
    assert seal.words[0].certificate is None
    with pytest.raises(SealError, match=r"fc.weight .. fc.bias has no certificate: .*guaranteed="):
        seal.verify_certificates()


def test_what_is_promised_is_said_of_a_seal():
    seal = pm.Seal.load(golden("certified")[1])
    assert "20 errors (3 guaranteed, 20 measured)" in repr(seal)
    shown = seal._repr_html_()
    for text in ("<th>guaranteed</th><th>bound</th><th>measured</th>", "<td>3</td><td>-</td>"):
        assert text in shown


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_without_a_crash(data):
    for form in (data, armor(data)):
        with pytest.raises(SealError):
            pm.Seal.from_bytes(form)
