"""Torch archives: slices without loading, wrappers taken off, and archives that want more than to be read."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from weight_examples import example_tensors, open_and_read_all, same

from pedigree.errors import InputError, MalformedFile, MissingInput, PedigreeError, UnsafeFile
from pedigree.weights import torch_pickle
from pedigree.weights.checkpoint import Checkpoint, open_checkpoint
from pedigree.weights.torch_files import CONFIGURATIONS

BASE = torch.arange(24.0).reshape(4, 6)
VIEWS = {
    "transposed": BASE.t(),
    "columns": BASE[:, 1:3],
    "rows": BASE[1:3],
    "parameter": torch.nn.Parameter(torch.ones(2, 2)),
    "all": BASE,
}
TENSORS = {**example_tensors(), **VIEWS}


def opened(path: Path) -> Checkpoint:
    return open_checkpoint(path, allow_pickle=True)


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_without_permission_a_pickle_is_not_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "pytorch_model.bin", {"x": torch.ones(2)})
    for location in (path, tmp_path):
        with pytest.raises(UnsafeFile, match="not read unless asked for") as caught:
            open_checkpoint(location)
        assert (caught.value.fix or "").startswith("--allow-pickle")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_tensors_and_views_are_read_and_sliced(tmp_path: Path, name: str) -> None:
    saved(tmp_path / name, OrderedDict(TENSORS))
    with opened(tmp_path) as ck:
        assert ck.format == "torch"
        assert set(ck.tensors) == set(TENSORS)
        for key, tensor in TENSORS.items():
            tensor = tensor.detach()
            assert same(ck.read(key), tensor), key
            if tensor.dim() and key != "packed" and len(tensor):
                assert same(ck.read_rows(key, 1, 2), tensor[1:2])
                assert same(ck.read_index(key, [1, 0, 0]), tensor[[1, 0, 0]])


def test_reading_rows_fetches_only_these_rows(tmp_path: Path) -> None:
    with opened(saved(tmp_path / "m.pt", {"w": torch.ones(1000, 1000)})) as ck:
        assert ck.meter.read < 100_000
        before = ck.meter.read
        ck.read_rows("w", 5, 7)
        assert ck.meter.read - before == 8000


@pytest.mark.parametrize(
    ("wrap", "note"),
    [
        (lambda sd: {"state_dict": sd, "epoch": 3}, "state_dict"),
        (lambda sd: {"model": sd, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}, "model"),
        (lambda sd: {"model": {"state_dict": sd}}, "model / state_dict"),
        (lambda sd: {f"module.{name}": tensor for name, tensor in sd.items()}, "module."),
        (lambda sd: {"model": {f"_orig_mod.module.{n}": t for n, t in sd.items()}}, "model / _orig_mod. / module."),
    ],
)
def test_what_training_frameworks_wrap_is_unwrapped_and_said(
    tmp_path: Path, wrap: Callable[[dict[str, torch.Tensor]], Any], note: str
) -> None:
    with opened(saved(tmp_path / "m.pt", wrap(example_tensors()))) as ck:
        assert set(ck.tensors) == set(example_tensors())
        assert f"under {note}," in ck.notes[0]


def test_nested_mappings_and_lists_get_dotted_names_and_plain_values_become_metadata(tmp_path: Path) -> None:
    content = {"a": {"b": [torch.ones(1), torch.ones(2)]}, "config": {"n_head": 4, "x": None}, "step": 7}
    with opened(saved(tmp_path / "m.pt", content)) as ck:
        assert list(ck.tensors) == ["a.b.0", "a.b.1"]
        assert ck.metadata == {"config": {"n_head": 4}, "step": 7}


def test_an_index_of_torch_shards_is_read(tmp_path: Path) -> None:
    saved(tmp_path / "pytorch_model-00001-of-00002.bin", {"a": torch.ones(2)})
    saved(tmp_path / "pytorch_model-00002-of-00002.bin", {"b": torch.ones(3)})
    index = '{"weight_map": {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}}'
    (tmp_path / "pytorch_model.bin.index.json").write_text(index)
    with opened(tmp_path) as ck:
        assert list(ck.tensors) == ["a", "b"]


def test_tied_tensors_are_both_there(tmp_path: Path) -> None:
    shared = torch.randn(3, 3)
    with opened(saved(tmp_path / "m.pt", {"a": shared, "b": shared})) as ck:
        assert same(ck.read("a"), ck.read("b"))


def test_a_file_without_tensors_is_said_to_have_none(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no tensors"):
        opened(saved(tmp_path / "m.pt", {"epoch": 3}))


def test_an_expanded_view_that_claims_terabytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MalformedFile, match="larger than its storage"):
        opened(saved(tmp_path / "m.pt", {"x": torch.ones(1).expand(10**6, 10**6)}))


def test_a_number_type_without_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises((InputError, UnsafeFile), match=r"complex128|not read|Python class"):
        opened(saved(tmp_path / "m.pt", {"x": torch.ones(2, dtype=torch.complex128)}))


class Runs:
    """Would run a command when unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.folder / "ran"),))


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "m.pt"
    torch.save({"x": torch.ones(2), "y": Runs(tmp_path)}, path, pickle_protocol=protocol)
    with pytest.raises(UnsafeFile, match=r"Python class or function"):
        opened(path)
    assert not (tmp_path / "ran").exists()


class Tokenizer:
    """A class that only this test file has; its objects stand beside the weights, or hold them."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


class Table(dict):  # type: ignore[type-arg]
    """A mapping of a class that only this test file has."""


@pytest.mark.parametrize(
    "content",
    [
        torch.nn.Linear(2, 2),
        {"model": torch.nn.Linear(2, 2), "epoch": 3},
        {"x": torch.ones(1), "rest": Tokenizer(weight=torch.ones(2))},
        {"x": torch.ones(1), "rest": Table(weight=torch.ones(2))},
        {"x": torch.ones(1), "sparse": torch.eye(3).to_sparse()},
        Tokenizer(chars="ab"),
        Path("a"),
    ],
    ids=["module", "module in a mapping", "object", "mapping", "sparse tensor", "object alone", "path alone"],
)
def test_tensors_inside_objects_of_foreign_classes_are_refused_and_the_class_is_named(
    tmp_path: Path, content: object
) -> None:
    with pytest.raises(UnsafeFile, match="Python class or function") as caught:
        opened(saved(tmp_path / "m.pt", content))
    assert caught.value.got is not None
    assert caught.value.fix is not None
    assert "weights_only" not in str(caught.value) + caught.value.fix


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("wrapped", [True, False])
def test_objects_of_foreign_classes_beside_the_tensors_are_left_unread_and_named(
    tmp_path: Path, protocol: int, wrapped: bool
) -> None:
    weights = {"w": torch.arange(6.0).reshape(2, 3)}
    beside = {"tokenizer": Tokenizer(chars=["a", "b"], stoi={"a": 0}), "path": Path("a"), "step": 7, "kinds": {1, 2}}
    content = {"model": weights, **beside} if wrapped else {**weights, **beside}
    torch.save(content, tmp_path / "m.pt", pickle_protocol=protocol)
    with opened(tmp_path / "m.pt") as ck:
        assert list(ck.tensors) == ["w"]
        assert same(ck.read("w"), weights["w"])
        assert ck.metadata["step"] == 7
        note = ck.notes[-1]
    assert "pathlib.PosixPath" in note
    assert ".Tokenizer" in note
    assert "left unread" in note
    assert "set" not in note.split("objects of")[1].split("stand")[0]


def test_an_optimizer_of_a_foreign_class_beside_wrapped_weights_is_left_unread(tmp_path: Path) -> None:
    content = {"model": {"w": torch.ones(2)}, "optimizer": Tokenizer(moments=torch.ones(9))}
    with opened(saved(tmp_path / "m.pt", content)) as ck:
        assert list(ck.tensors) == ["w"]
        assert "left unread" in ck.notes[-1]


@pytest.mark.parametrize("key", CONFIGURATIONS)
def test_a_configuration_of_a_foreign_class_is_refused(tmp_path: Path, key: str) -> None:
    content = {"model": {"w": torch.ones(2)}, key: Tokenizer(n_head=4)}
    with pytest.raises(UnsafeFile, match="the configuration in the file is an object") as caught:
        opened(saved(tmp_path / "m.pt", content))
    assert "Tokenizer" in str(caught.value.got)
    assert key in str(caught.value.where)


def test_a_class_in_a_pickle_is_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pedigree_bait.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\nclass Bait: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    pickled(tmp_path / "m.pt", b"X\x01\x00\x00\x00ycpedigree_bait\nBait\n)R")
    with opened(tmp_path / "m.pt") as ck:
        assert "pedigree_bait.Bait" in ck.notes[-1]
    assert not (tmp_path / "imported").exists()


def pickled(path: Path, items: bytes) -> Path:
    """An archive with one tensor of four floats and with more items of its mapping, given as opcodes."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"K\x00K\x04\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR"
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02}(X\x01\x00\x00\x00x" + tensor + items + b"u.")
        archive.writestr("m/data/0", bytes(16))
    return path


def test_the_hand_made_archive_of_these_tests_is_read(tmp_path: Path) -> None:
    with opened(pickled(tmp_path / "m.pt", b"")) as ck:
        assert same(ck.read("x"), torch.zeros(4))


@pytest.mark.parametrize(
    "name",
    [
        "os.system", "posix.system", "nt.system", "subprocess.Popen", "builtins.eval", "builtins.exec",
        "builtins.getattr", "builtins.__import__", "builtins.open", "__builtin__.eval", "sys.exit", "shutil.rmtree",
        "socket.socket", "importlib.import_module", "runpy.run_path", "code.interact", "pty.spawn", "ctypes.CDLL",
        "functools.partial", "operator.attrgetter", "types.FunctionType", "pickle.loads", "marshal.loads",
        "webbrowser.open", "asyncio.run", "multiprocessing.Process", "http.client.HTTPConnection", "cProfile.run",
        "bdb.Bdb.run", "collections.OrderedDict.fromkeys", "pathlib.os.system", "torch.load", "torch.hub.load",
        "torch.jit.load", "torch.utils.cpp_extension.load", "torch.storage._load_from_bytes", "torch._C.Future",
        "numpy.testing._private.utils.runstring", "numpy.f2py.run_main", "dill.loads", "cloudpickle.loads",
        "pandas.read_pickle", "commands.getoutput", "pip.main",
    ],
)  # fmt: skip
@pytest.mark.parametrize("called", [True, False])
def test_a_pickle_that_names_what_acts_on_the_machine_is_refused(tmp_path: Path, name: str, called: bool) -> None:
    module, _, function = name.rpartition(".")
    item = b"X\x01\x00\x00\x00yc%s\n%s\n" % (module.encode(), function.encode())
    with pytest.raises(UnsafeFile, match="Python class or function") as caught:
        opened(pickled(tmp_path / "m.pt", item + (b"X\x04\x00\x00\x00true\x85R" if called else b"")))
    assert name in str(caught.value.got)


@pytest.mark.parametrize("name", ["Path.os.system", "PosixPath.exists"])
def test_a_name_that_climbs_out_of_a_harmless_class_is_refused(tmp_path: Path, name: str) -> None:
    item = b"X\x01\x00\x00\x00y\x8c\x07pathlib\x8c" + bytes([len(name)]) + name.encode() + b"\x93"
    with pytest.raises(UnsafeFile, match="Python class or function"):
        opened(pickled(tmp_path / "m.pt", item))


@pytest.mark.parametrize(
    "items",
    [
        b"X\x01\x00\x00\x00y" + b"](" * 100_000 + b"e" * 100_000,
        b")" + b"\x85" * 200_000 + b"N",
        b"X\x01\x00\x00\x00y\x8b\x40\x42\x0f\x00" + b"\x7f" * 1_000_000,
    ],
    ids=["brackets without end", "a key of tuples without end", "a number of a million bytes"],
)
def test_what_would_overflow_a_reader_that_follows_it_is_left_alone(tmp_path: Path, items: bytes) -> None:
    with opened(pickled(tmp_path / "m.pt", items)) as ck:
        assert list(ck.tensors) == ["x"]


def test_a_pickle_of_more_opcodes_than_any_checkpoint_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_pickle, "MAX_OPCODES", 1000)
    with pytest.raises(UnsafeFile, match="absurdly long"):
        opened(pickled(tmp_path / "m.pt", b"X\x01\x00\x00\x00y]" + b"0]" * 1000))


def test_one_list_that_is_copied_again_and_again_is_refused(tmp_path: Path) -> None:
    pairs = b"X\x01\x00\x00\x00y](" + b"NN\x86" * 1000 + b"e\x85q\x01"
    with pytest.raises(MalformedFile, match="copied without end"):
        opened(pickled(tmp_path / "m.pt", pairs + b"0ccollections\nOrderedDict\nh\x01R" * 200))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (b"\x8b\x02\x00\x00\x00\x00\x80\x85", "not a list of sizes"),
        (b"\x8a\x08" + b"\xff" * 7 + b"\x7f\x85", "shape is absurd"),
        (b"\x8b\x00\x10\x00\x00" + b"\x7f" * 4096 + b"\x85", "not a list of sizes"),
        (b"X\x01\x00\x00\x004\x85", "not a list of sizes"),
        (b"N", "not a list of sizes"),
        (b"K\x02K\x02\x86", "strides do not match"),
    ],
    ids=["negative", "beyond 62 bits", "thousands of digits", "text", "nothing", "two axes"],
)
def test_a_shape_that_is_none_is_refused(tmp_path: Path, shape: bytes, words: str) -> None:
    pickled(tmp_path / "m.pt", b"")
    with zipfile.ZipFile(tmp_path / "m.pt") as archive:
        text = archive.read("m/data.pkl")
    with zipfile.ZipFile(tmp_path / "n.pt", "w") as archive:
        archive.writestr("m/data.pkl", text.replace(b"K\x04\x85K\x01\x85", shape + b"K\x01\x85"))
        archive.writestr("m/data/0", bytes(16))
    with pytest.raises(MalformedFile, match=words):
        opened(tmp_path / "n.pt")


def test_parameters_with_attributes_are_read(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.parallel = True  # type: ignore[attr-defined]
    with opened(saved(tmp_path / "m.pt", {"p": parameter})) as ck:
        assert same(ck.read("p"), torch.ones(3))


def test_values_stored_negated_are_refused(tmp_path: Path) -> None:
    negated = torch.ones(3, dtype=torch.complex64).conj().imag
    assert negated.is_neg()
    with pytest.raises(UnsafeFile, match="_rebuild_tensor_v2"):
        opened(saved(tmp_path / "m.pt", {"x": negated}))


def test_a_pickle_cannot_ask_torch_for_memory(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02ctorch\nTensor\nJ\xff\xff\xff\x7f\x85R.")
    with pytest.raises(UnsafeFile, match=r"torch\.Tensor"):
        opened(tmp_path / "m.pt")


def test_a_bare_pickle_is_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.bin").write_bytes(pickle.dumps({"x": 1}))
    for name in ("old.pt", "plain.bin"):
        with pytest.raises(UnsafeFile, match="bare pickle") as caught:
            opened(tmp_path / name)
        assert "safetensors" in (caught.value.fix or "")


def test_a_program_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02}.")
        archive.writestr("m/constants.pkl", b"\x80\x02).")
    with pytest.raises(UnsafeFile, match="TorchScript"):
        opened(tmp_path / "m.pt")


def test_a_zip_bomb_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", b"\x80\x02}.")
        archive.writestr("m/data/0", bytes(50_000_000))
    tracemalloc.start()
    with pytest.raises(UnsafeFile, match="could unfold to any size"):
        opened(path)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def directory_of(content: bytes, changes: dict[str, Callable[[bytearray, int], None]]) -> bytes:
    """The archive with entries of its central directory changed: name -> change(bytes, position of the entry)."""
    result = bytearray(content)
    at = result.find(b"PK\x01\x02")
    while at >= 0:
        length = struct.unpack_from("<H", result, at + 28)[0]
        name = bytes(result[at + 46 : at + 46 + length]).decode()
        for part, change in changes.items():
            if name.endswith(part):
                change(result, at)
        at = result.find(b"PK\x01\x02", at + 46)
    return bytes(result)


def put(format: str, offset: int, value: int) -> Callable[[bytearray, int], None]:
    return lambda content, at: struct.pack_into(format, content, at + offset, value)


@pytest.fixture
def archive() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(100), "b": torch.zeros(100)}, buffer)
    return buffer.getvalue()


def test_records_that_overlap_are_refused(tmp_path: Path, archive: bytes) -> None:
    first = archive.find(b"PK\x03\x04", 10)
    (tmp_path / "m.pt").write_bytes(directory_of(archive, {"data/1": put("<I", 42, first)}))
    with pytest.raises(PedigreeError, match=r"share bytes|damaged|larger than"):
        opened(tmp_path / "m.pt")


def test_records_that_claim_more_than_the_file_are_refused(tmp_path: Path, archive: bytes) -> None:
    def grow(content: bytearray, at: int) -> None:
        struct.pack_into("<II", content, at + 20, 10**9, 10**9)

    (tmp_path / "m.pt").write_bytes(directory_of(archive, {"data/1": grow}))
    with pytest.raises(UnsafeFile, match="claim more bytes than the file has"):
        opened(tmp_path / "m.pt")


def test_a_record_shorter_than_its_tensor_is_refused(tmp_path: Path, archive: bytes) -> None:
    def shrink(content: bytearray, at: int) -> None:
        struct.pack_into("<II", content, at + 20, 8, 8)

    (tmp_path / "m.pt").write_bytes(directory_of(archive, {"data/1": shrink}))
    with pytest.raises(MalformedFile, match="larger than its storage"):
        opened(tmp_path / "m.pt")


def test_an_archive_of_the_other_byte_order_is_refused(tmp_path: Path, archive: bytes) -> None:
    (tmp_path / "m.pt").write_bytes(archive.replace(b"little", b"bigger"))
    with pytest.raises(PedigreeError, match="not little endian"):
        opened(tmp_path / "m.pt")


def test_sharing_one_mapping_without_end_does_not_hang(tmp_path: Path) -> None:
    node: Any = {"x": torch.ones(1)}
    for _ in range(40):
        node = {"a": node, "b": node, "c": node, "d": node}
    with pytest.raises(PedigreeError, match=r"no tensors"):
        opened(saved(tmp_path / "m.pt", node))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_damage_does_more_than_a_clear_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(4, 4), "n": {"b": torch.zeros(3)}}, buffer)
    content = bytearray(buffer.getvalue())
    start = data.draw(st.sampled_from([0, content.find(b"\x80\x02"), content.find(b"PK\x01\x02"), len(content) - 100]))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(start, min(start + 300, len(content) - 1)))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "m.pt"
    path.write_bytes(content)
    error = open_and_read_all(path)
    assert error is None or error.where
