"""Torch archives, one or many, as one set of tensors.

Training frameworks wrap the weights: `{"model": ...}`, `{"state_dict": ...}`, a `module.` before every name. The
wrapping is taken off, and a note says so. Plain values beside the weights (a training configuration) go to the
metadata; objects of classes that are not ours are left unread there, and a note names the class.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pedigree.errors import InputError, MalformedFile, MissingInput, UnsafeFile
from pedigree.weights.contents import Contents, add_extents, check_promised
from pedigree.weights.extent import Extent, TensorInfo
from pedigree.weights.number_types import BITS
from pedigree.weights.pickle_names import CONVERT, is_inert, refusal
from pedigree.weights.safetensors_header import checked_shape, checked_sizes, is_text, shorten
from pedigree.weights.source import Source
from pedigree.weights.torch_archive import TorchArchive, read_archive
from pedigree.weights.torch_pickle import Global, Opaque, StorageRef, TensorRef, describe
from pedigree.weights.weight_files import Choice

WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "weights", "net", "network", "params")
"""Keys under which training frameworks keep the weights, in order of preference."""
PREFIXES = ("module.", "_orig_mod.")
"""Marks that data parallelism and compilation leave before every name."""
CONFIGURATIONS = ("config", "cfg", "model_config", "model_args", "hparams", "hyper_parameters")
"""Keys under which a file keeps what a reader of its tensors must know."""

_MAX_DEPTH = 6
_MAX_NODES = 1_000_000
_MAX_LETTERS = 100_000_000
_MAX_NAMED = 3


def open_torch(source: Source, choice: Choice) -> Contents:
    """Read the directories and pickles of the chosen files; no tensor data.

    Raises:
        UnsafeFile: a file asks for what acts on the machine, keeps its tensors or its configuration in objects of
            its own classes, or is not an archive that can be checked.
        MissingInput: a file is not there, holds no tensors, or lacks one that the index promises.
        MalformedFile: a file contradicts its format, or two files hold one name.
    """
    extents: dict[str, Extent] = {}
    metadata: dict[str, Any] = {}
    file_bytes: dict[str, int] = {}
    notes = list(choice.notes)
    for file in choice.files:
        size, place = source.size(file), source.place(file)
        if size is None:
            raise MissingInput("no such file", where=place)
        archive = read_archive(source, file, size)
        described = describe(archive.pickle, place)
        if isinstance(described, Opaque | Global):
            raise refusal(described.name, f"{place}: data.pkl")
        weights, wrapping = _unwrap(described)
        _check_configuration(described, wrapping, place)
        found = {name: _extent(name, tensor, archive, file, place) for name, tensor in _tensors(weights, place)}
        if not found:
            raise MissingInput("no tensors in the file", where=place, got=type(described).__name__)
        found, prefix = _without_prefix(found)
        if wrapping or prefix:
            notes.append(f"{place}: the names stand under {' / '.join((*wrapping, *prefix))}, which was taken off")
        notes.extend(_unread(described, place))
        file_bytes[file] = size
        metadata.update(_plain_values(described))
        add_extents(extents, found, choice.weight_map, file, place, notes)
    check_promised(extents, choice.weight_map, source)
    return Contents("torch", extents, file_bytes, metadata, None, tuple(notes))


def _unwrap(described: Any) -> tuple[Any, tuple[str, ...]]:
    """The mapping that holds the weights, and the keys that led to it."""
    path: list[str] = []
    while isinstance(described, dict) and len(path) < _MAX_DEPTH:
        inner = next((key for key in WRAPPERS if isinstance(described.get(key), dict) and described[key]), None)
        if inner is None:
            break
        path.append(inner)
        described = described[inner]
    return described, tuple(path)


def _check_configuration(described: Any, wrapping: tuple[str, ...], place: str) -> None:
    """Refuse a file whose configuration is an object of its own class.

    An object beside the tensors can be left unread; a configuration cannot: how many heads a matrix holds would be
    guessed although the file says it.
    """
    for step in ("", *wrapping):
        described = described[step] if step else described
        for key in CONFIGURATIONS:
            value = described.get(key) if isinstance(described, dict) else None
            if isinstance(value, Opaque):
                raise UnsafeFile(
                    "the configuration in the file is an object of a Python class, which is not run",
                    where=f"{place}: data.pkl, key {key!r}",
                    got=shorten(value.name),
                    expected="plain values",
                    fix=CONVERT,
                )


def _tensors(root: Any, place: str) -> Iterator[tuple[str, TensorRef]]:
    """Named tensors of nested mappings and lists, names joined by dots.

    The count of visited nodes is bounded: a small pickle can share one mapping so often that a walk never ends.

    Raises:
        UnsafeFile: tensors stand inside an object of a class that only its own code can read.
        MalformedFile: the nesting or a name is absurd, or a name occurs twice.
    """
    stack: list[tuple[str, Any, int]] = [("", root, 0)]
    n_nodes, n_letters, seen = 0, 0, set()
    while stack:
        name, node, depth = stack.pop()
        if isinstance(node, TensorRef):
            if name in seen:
                raise MalformedFile("a tensor name occurs twice", where=f"{place}: tensor {name!r}")
            seen.add(name)
            yield name or "tensor", node
        elif isinstance(node, Opaque):
            if _holds_tensors(node):
                raise refusal(node.name, f"{place}: data.pkl" + (f", key {name!r}" if name else ""))
        elif depth < _MAX_DEPTH and isinstance(node, dict | list | tuple):
            pairs = node.items() if isinstance(node, dict) else enumerate(node)
            inner = [
                (key, value) for key, value in pairs if isinstance(key, str | int) and isinstance(value, _BRANCHES)
            ]
            for key, value in reversed(inner):
                longer = f"{name}.{key}" if name else str(key)
                n_nodes, n_letters = n_nodes + 1, n_letters + len(longer)
                if n_nodes > _MAX_NODES or n_letters > _MAX_LETTERS:
                    raise MalformedFile(
                        "the nesting is absurd",
                        where=f"{place}: data.pkl",
                        got=f"{n_nodes} nodes, {n_letters} letters in their names",
                        expected=f"{_MAX_NODES} nodes, {_MAX_LETTERS} letters, or fewer",
                    )
                stack.append((longer, value, depth + 1))


_BRANCHES = (TensorRef, Opaque, dict, list, tuple)


def _holds_tensors(found: Opaque) -> bool:
    """Whether a tensor, or a storage to make one of, is among what an object was given."""
    return any(isinstance(node, TensorRef | StorageRef) for node in _everything_in(found, into_objects=True))


def _everything_in(root: Any, *, into_objects: bool) -> Iterator[Any]:
    """Every value of nested mappings, lists and objects; what is inside of each is listed once."""
    stack: list[Any] = [root]
    seen: set[int] = set()
    while stack:
        node = stack.pop()
        yield node
        if id(node) in seen:
            continue
        if isinstance(node, dict):
            seen.add(id(node))
            stack.extend(node.values())
        elif isinstance(node, list | tuple):
            seen.add(id(node))
            stack.extend(node)
        elif isinstance(node, Opaque) and into_objects:
            seen.add(id(node))
            stack.extend(node.parts)


def _unread(described: Any, place: str) -> list[str]:
    """A note on the classes whose objects stand beside the tensors."""
    names = {node.name for node in _everything_in(described, into_objects=False) if isinstance(node, Opaque)}
    foreign = sorted(name for name in names if not is_inert(name))
    if not foreign:
        return []
    more = f" and {len(foreign) - _MAX_NAMED} more classes" if len(foreign) > _MAX_NAMED else ""
    named = ", ".join(name if is_text(name) and len(name) <= 80 else shorten(name) for name in foreign[:_MAX_NAMED])
    return [f"{place}: objects of {named}{more} stand beside the tensors and were left unread"]


def _extent(name: str, tensor: TensorRef, archive: TorchArchive, file: str, place: str) -> Extent:
    where = f"{place}: tensor {name!r}"
    if not is_text(name):
        raise MalformedFile("a tensor name is not valid Unicode", where=where)
    if tensor.dtype is None:
        raise InputError("a number type or layout that is not read", where=where, got=shorten(tensor.kind))
    record = archive.storages.get(tensor.storage.key)
    if record is None:
        raise MalformedFile("a tensor without storage in the archive", where=where, got=shorten(tensor.storage.key))
    shape, stride = checked_shape(tensor.shape, where), checked_sizes(tensor.stride, where, field="stride")
    offset = checked_sizes((tensor.offset,), where, field="storage offset")[0]
    if len(stride) != len(shape):
        raise MalformedFile("the strides do not match the shape", where=where, got=f"{len(stride)} for {len(shape)}")
    item = BITS[tensor.dtype] // 8
    n_bytes = math.prod(shape) * item
    start = offset * item
    reach = start + (1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))) * item
    # An expanded view repeats bytes: a few of them could claim to be any number of values.
    if n_bytes and (reach > record.nbytes or n_bytes > record.nbytes):
        raise MalformedFile(
            "the tensor is larger than its storage",
            where=where,
            got=f"{tensor.dtype} {shorten(shape)}, strides {shorten(stride)}, from byte {start}",
            expected=f"{record.nbytes} bytes or fewer",
        )
    info = TensorInfo(name, tensor.dtype, shape, n_bytes, file)
    return Extent(info, record.offset + start, None if not n_bytes or _is_contiguous(shape, stride) else stride)


def _is_contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether the elements follow each other in order; an axis of one element may have any stride."""
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True


def _without_prefix(found: dict[str, Extent]) -> tuple[dict[str, Extent], tuple[str, ...]]:
    """The names without what data parallelism or compilation put before all of them."""
    taken: list[str] = []
    names = {name: name for name in found}
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in names.values())), None):
        names = {name: short.removeprefix(prefix) for name, short in names.items()}
        taken.append(prefix)
    return {short: found[name].renamed(short) for name, short in names.items()}, tuple(taken)


def _plain_values(described: Any) -> dict[str, Any]:
    """Numbers and texts at the top of the file, and in mappings there."""
    plain = (str, int, float, bool)
    if not isinstance(described, dict):
        return {}
    result: dict[str, Any] = {}
    for key, value in described.items():
        if isinstance(key, str) and isinstance(value, plain):
            result[key] = value
        elif isinstance(key, str) and isinstance(value, dict) and key not in WRAPPERS:
            inner = {name: item for name, item in value.items() if isinstance(name, str) and isinstance(item, plain)}
            if inner:
                result[key] = inner
    return result
