"""ONNX models and the files that hold their weights, against the onnx library."""

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from samples import load, make_onnx, make_onnx_data

from parimend import check_file, protect_file, repair_file
from parimend.dtypes import DTYPES
from parimend.errors import FormatError, SealError, SpecError
from parimend.files import protect_all, sidecar_of
from parimend.outcomes import Verdict
from tests.formats.conftest import parse

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def graph(nodes=(), held=(), name="graph"):
    return helper.make_graph(list(nodes), name, [], [], list(held))


@pytest.fixture
def saved(tmp_path):
    """Saves a graph and gives the tensors that are found."""

    def save(made, path=tmp_path / "model.onnx", **options):
        onnx.save_model(helper.make_model(made), path, **options)
        return {entry.name: entry for entry in parse(path).entries}

    return save


@given(st.dictionaries(names, st.lists(st.integers(0, 4), max_size=3), max_size=5))
def test_it_reads_what_the_library_writes(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("made") / "model.onnx"
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape) for name, shape in tensors.items()}
    held = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    onnx.save(helper.make_model(graph(held=held)), path)
    content = path.read_bytes()
    found = {e.name: (e.dtype, e.shape, content[e.begin : e.end]) for e in parse(path).entries}
    wanted = {n: ("F64", a.shape, a.tobytes()) for n, a in arrays.items() if a.size}
    assert found == wanted or (not wanted and list(found) == ["bytes"])


KINDS = [
    kind
    for kind in helper.get_all_tensor_dtypes()
    if kind != TensorProto.STRING and kind != TensorProto.UNDEFINED
]


@pytest.mark.parametrize("kind", KINDS, ids=TensorProto.DataType.Name)
def test_types_are_those_of_the_library(saved, kind):
    array = np.zeros((2, 4), helper.tensor_dtype_to_np_dtype(kind))
    [entry] = saved(graph(held=[numpy_helper.from_array(array, "w")])).values()
    held = numpy_helper.from_array(array, "w")
    assert (held.data_type, entry.shape) == (kind, (2, 4))
    if (known := DTYPES.get(entry.dtype)) and not known.packed:
        assert known.numpy == array.dtype
        assert entry.part().count == 8
    else:
        assert entry.part().nbytes == len(held.raw_data)


def test_fields_with_numbers_in_them(saved):
    """Floats lie there as in memory; other numbers do not."""
    held = [
        helper.make_tensor("f", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0]),
        helper.make_tensor("d", TensorProto.DOUBLE, [2], [1.0, 2.0]),
        helper.make_tensor("c", TensorProto.COMPLEX64, [2], [1 + 2j, 3j]),
        helper.make_tensor("i", TensorProto.INT64, [3], [1, -1, 300]),
        helper.make_tensor("h", TensorProto.FLOAT16, [2], [1.0, 2.0]),
        helper.make_tensor("s", TensorProto.STRING, [2], [b"text", b"more"]),
    ]
    found = saved(graph(held=held))
    assert {name: (e.dtype, e.part().dtype) for name, e in found.items()} == {
        "f": ("F32", "F32"),
        "d": ("F64", "F64"),
        "c": ("C64", "C64"),
        "i": ("VARINTS", "U8"),
        "h": ("VARINTS", "U8"),
    }


def test_tensors_without_a_name(saved):
    held = [numpy_helper.from_array(np.full(9, i, np.float32), "") for i in range(3)]
    first, second, third = saved(graph(held=held)).values()
    assert first.name == "unnamed"
    assert second.name == f"unnamed@{second.begin}"
    assert third.name == f"unnamed@{third.begin}"


def test_tensors_inside_of_nodes(saved):
    def array(value, name=""):
        return numpy_helper.from_array(np.full(9, value, np.float32), name)

    inner = graph([helper.make_node("Constant", [], ["deep"], value=array(1.0))], [array(2.0, "b")])
    sparse = helper.make_sparse_tensor(
        array(3.0, "values"), numpy_helper.from_array(np.arange(9), "places"), [99]
    )
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner),
        helper.make_node("Constant", [], ["sparse"], sparse_value=sparse),
        helper.make_node("Custom", [], ["many"], values=[array(4.0, "one"), array(5.0)]),
    ]
    found = set(saved(graph(nodes)))
    twice = {name for name in found if "@" in name}
    assert found - twice == {"deep", "b", "values", "places", "one", "many"}
    assert {name.split("@")[0] for name in twice} == {"deep", "b"}


def test_a_wrong_weight_is_named_and_repaired(tmp_path, rng):
    path = make_onnx(tmp_path, rng)
    original, before = path.read_bytes(), load(path)
    protect_file(path, 4)
    entry = next(entry for entry in parse(path).entries if entry.name == "fc.weight")
    damaged = bytearray(original)
    damaged[entry.begin + 4 * 41 + 3] ^= 128
    damaged[:5] = bytes(5)
    damaged[-9:] = bytes(9)
    path.write_bytes(damaged)
    [change] = check_file(path).changes
    assert (change.tensor, change.index, change.dtype) == ("fc.weight", (1, 1), "F32")
    assert repair_file(path).verdict is Verdict.CORRECTED
    assert path.read_bytes() == original
    onnx.checker.check_model(path, full_check=True)
    assert load(path) == before


def number(value):
    """A varint."""
    out = b""
    while value >= 128:
        value, out = value >> 7, out + bytes([value & 127 | 128])
    return out + bytes([value])


def message(field, content):
    return number(field << 3 | 2) + number(len(content)) + content


def nested(depth):
    """Graphs in attributes of nodes of graphs."""
    inner = b""
    for _ in range(depth):
        inner = message(1, message(5, message(6, inner)))
    return b"\x08\x0a" + message(7, inner)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"other" * 20, "no ONNX model, or it is truncated or damaged"),
        (b"\x08\x0a", "no ONNX model: it has no version, or no graph"),
        (message(7, b""), "no ONNX model: it has no version, or no graph"),
        (b"\x08\x0a" + message(7, b"")[:-1] + b"\x7f", "127 bytes should follow"),
        (b"\x08" + b"\xff" * 11, "has no end"),
        (b"\x08\x0a" + message(7, b"") + b"\x0b", "a field ends"),
        (b"\x08\x0a" + message(7, message(5, message(9, b"x"))[:-1]), "bytes should follow"),
        (nested(200), "its graphs have no end"),
        (b"\x08\x0a" + message(7, message(5, b"\x08\x01" * 99 + message(9, b"x"))), "no shape"),
        (b"", "is empty|is no ONNX model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_refused(tmp_path, content, says):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=says):
        protect_file(path, 2)


def test_other_messages_are_bytes(tmp_path):
    path = tmp_path / "saved_model.pb"
    path.write_bytes(b"\x08\x01" + message(2, message(1, b"x" * 99)))
    assert parse(path).format.name == "raw"


# Data beside the model.


@pytest.fixture
def pair(tmp_path, rng):
    data = make_onnx_data(tmp_path, rng)
    return data.with_name("model.onnx"), data


def test_a_model_and_its_data_are_protected_together(pair, tmp_path):
    model, data = pair
    before = load(data)
    made = protect_file(model, 3)
    assert [file.path for file in made] == [str(model), str(data)]
    originals = [path.read_bytes() for path in pair]
    entry = next(entry for entry in parse(data).entries if entry.name == "fc.weight")
    damaged = bytearray(originals[1])
    damaged[entry.begin + 4 * 41] ^= 128
    data.write_bytes(damaged)
    model.write_bytes(b"\0\0" + originals[0][2:])
    for path in (model, tmp_path):
        report = check_file(path)
        assert report.verdict is Verdict.CORRECTABLE
        assert len(report.files) == 2
        [change] = report.changes
        assert (change.tensor, change.index, change.dtype) == ("fc.weight", (1, 1), "F32")
    assert check_file(data).verdict is Verdict.CORRECTABLE
    assert repair_file(model).verdict is Verdict.CORRECTED
    assert [path.read_bytes() for path in pair] == originals
    onnx.checker.check_model(model, full_check=True)
    assert load(data) == before
    assert all(file.is_kept for file in protect_file(model, 3))


def test_what_else_lies_beside_a_model_is_not_left_out(pair):
    model, data = pair
    data.with_name("other.bin").write_bytes(b"other")
    assert protect_all([model], 3).left_out == {}


def test_what_is_missing_is_named(pair):
    model, data = pair
    protect_file(model, 3)
    data.unlink()
    report = check_file(model)
    assert report.verdict is Verdict.UNKNOWN
    assert "missing: it was protected together" in report.files[1].problem
    sidecar_of(model).unlink()
    report = check_file(model)
    assert {file.verdict for file in report.files} == {Verdict.UNKNOWN}


def test_data_that_are_not_there_cannot_be_protected(pair):
    model, data = pair
    data.unlink()
    with pytest.raises(FileNotFoundError):
        protect_file(model, 3)
    assert [path.name for path in model.parent.iterdir()] == ["model.onnx"]


def test_a_model_without_a_seal(pair):
    for path in pair:
        with pytest.raises(SealError, match="not protected"):
            check_file(path)


def test_results_need_a_folder(pair, tmp_path):
    model, data = pair
    protect_file(model, 3)
    with pytest.raises(SpecError, match="has 2 files: give an existing folder"):
        repair_file(model, tmp_path / "other.onnx")
    (tmp_path / "out").mkdir()
    assert repair_file(model, tmp_path / "out").ok
    assert (tmp_path / "out" / data.name).read_bytes() == data.read_bytes()


def test_tensors_are_chosen_in_all_of_the_files(pair):
    model, _ = pair
    made = protect_file(model, 3, only=["fc.*", "constant"])
    chosen = [[part.name for word in m.seal.words for part in word.parts] for m in made]
    assert chosen == [["constant"], ["fc.weight", "fc.bias"]]


def test_a_file_for_each_tensor(saved, tmp_path, rng):
    arrays = {f"w{i}": rng.standard_normal(300) for i in range(3)}
    held = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    saved(
        graph(held=held),
        save_as_external_data=True,
        all_tensors_to_one_file=False,
        size_threshold=0,
        convert_attribute=False,
    )
    made = protect_file(tmp_path / "model.onnx", 3)
    assert [m.seal.words[0].name for m in made[1:]] == sorted(arrays)
    # Two models may share a file.
    (tmp_path / "other.onnx").write_bytes((tmp_path / "model.onnx").read_bytes())
    assert check_file(tmp_path / "model.onnx").verdict is Verdict.CLEAN
    assert len(check_file(tmp_path / "model.onnx").files) == 4


@pytest.mark.parametrize("is_apart", [False, True])
def test_a_model_of_a_folder_is_checked_with_its_own_data_alone(pair, tmp_path, rng, is_apart):
    model, data = pair
    for name in ("other.onnx", "more.onnx"):
        onnx.save(helper.make_model(graph(name=name)), model.with_name(name))
    seals = {"seal_dir": tmp_path / "seals"} if is_apart else {}
    protect_file(model.parent, 3, **seals)
    alone = tmp_path / "alone"
    alone.mkdir()
    kept = {name: model.with_name(name).read_bytes() for name in (model.name, data.name)}
    for name in (*kept, "more.onnx"):
        for file in model.parent.glob(f"{name}*"):
            shutil.copy(file, alone)

    def looked_at(name):
        report = check_file(alone / name, **seals)
        return [Path(file.path).name for file in report.files], report.verdict

    assert looked_at("more.onnx") == (["more.onnx"], Verdict.CLEAN)
    assert looked_at(model.name) == ([model.name, data.name], Verdict.CLEAN)
    for name, old, new in ((model.name, data.name.encode(), b"w"), (data.name, None, b"\0\1\2")):
        at = kept[name].index(old) if old else 9
        content = bytearray(kept[name])
        content[at : at + len(new)] = new
        (alone / name).write_bytes(content)
        assert looked_at(model.name) == ([model.name, data.name], Verdict.CORRECTABLE)
        assert repair_file(alone / model.name, **seals).ok
        assert (alone / name).read_bytes() == kept[name]
    (alone / data.name).unlink()
    assert looked_at(model.name) == ([model.name, data.name], Verdict.UNKNOWN)
    (alone / model.name).unlink()
    assert repair_file(alone / model.name, sources=model.parent, **seals).ok
    assert {name: (alone / name).read_bytes() for name in kept} == kept


def external(location, **more):
    tensor = numpy_helper.from_array(np.zeros(9), "w")
    onnx.external_data_helper.set_external_data(tensor, location, **more)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    return graph(held=[tensor])


@pytest.mark.parametrize("is_apart", [False, True])
def test_a_model_that_was_overwritten_with_its_data_is_none(pair, tmp_path, is_apart):
    """Where it lies, and not what is in it, says that it stands for both."""
    seals = {"seal_dir": tmp_path / "seals"} if is_apart else {}
    protect_file(pair[0], 3, **seals)
    shutil.copy(pair[1], pair[0])
    if not is_apart:
        shutil.copy(sidecar_of(pair[1]), sidecar_of(pair[0]))
    for act in (check_file, repair_file):
        files = {file.path: file for file in act(pair[0], **seals).files}
        assert {path: file.ok for path, file in files.items()} == {
            str(pair[0]): False,
            str(pair[1]): True,
        }
        assert "holds what was protected as model.onnx_data" in files[str(pair[0])].problem
    assert pair[0].read_bytes() == pair[1].read_bytes()


def test_a_damaged_model_without_weights_of_its_own_still_names_its_data(tmp_path):
    model, data = tmp_path / "model.onnx", tmp_path / "w.data"
    onnx.save(helper.make_model(external(data.name)), model)
    onnx.save(helper.make_model(graph(name="other")), tmp_path / "other.onnx")
    data.write_bytes(original := bytes(range(72)))
    protect_file(tmp_path, 3)
    model.write_bytes(model.read_bytes().replace(data.name.encode(), b"x.data"))
    data.write_bytes(original[::-1][:4] + original[4:])
    assert repair_file(model).ok
    assert data.read_bytes() == original
    assert len(check_file(model).files) == 2


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../b", "..", ""])
def test_data_outside_the_folder_are_refused(saved, tmp_path, location):
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(external(location)), path)
    with pytest.raises(FormatError, match="w has its data outside the folder of the model"):
        protect_file(path, 2)


def test_data_in_a_folder_below(tmp_path, rng):
    data = tmp_path / "data" / "w"
    data.parent.mkdir()
    data.write_bytes(original := rng.bytes(72))
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(external("data/w")), path)
    assert [made.path for made in protect_file(path, 2)] == [str(path), str(data)]
    data.write_bytes(bytes(8) + original[8:])
    for place in (path, tmp_path):
        report = check_file(place)
        assert [file.path for file in report.files if file.changes] == [str(data)]
        assert {change.tensor for change in report.changes} == {"w"}
    copy = tmp_path / "copy"
    copy.mkdir()
    assert repair_file(path, copy).ok
    assert (copy / "data" / "w").read_bytes() == original
    assert check_file(copy / "model.onnx").ok


def test_a_folder_of_data_that_is_a_link_is_refused(tmp_path):
    """It may lead anywhere."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "w").write_bytes(bytes(72))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "data").symlink_to("../elsewhere")
    onnx.save(helper.make_model(external("data/w")), folder / "model.onnx")
    with pytest.raises(FormatError, match="has tensors outside of its folder, in data/w"):
        protect_file(folder / "model.onnx", 2)


@pytest.mark.parametrize("more", [{"offset": -1}, {"length": -5}, {"offset": 1 << 63}])
def test_places_that_cannot_be(saved, tmp_path, more):
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(external("w.data", **more)), path)
    with pytest.raises(FormatError, match=r"w has no place in 'w\.data'"):
        protect_file(path, 2)


def test_places_without_a_length(saved, tmp_path):
    onnx.save(helper.make_model(external("w.data", offset=64)), tmp_path / "model.onnx")
    path = tmp_path / "w.data"
    path.write_bytes(bytes(64 + 72 + 5))
    [entry] = parse(path).entries
    assert entry == ("w", "F64", (9,), 64, 136)
    os.truncate(path, 100)
    with pytest.raises(FormatError, match="is truncated: it has 100 bytes, and w ends at 136"):
        protect_file(tmp_path / "model.onnx", 2)
