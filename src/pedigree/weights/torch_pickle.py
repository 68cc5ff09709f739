"""The pickle of a torch archive -> a description of what it would build, without building it.

The opcodes are followed on a stack of plain values. No name is imported, nothing is called: where the pickle asks for
a call, the few calls that make tensors and mappings are known by name and described, and any other leaves an `Opaque`
that remembers its name and what it was given. So a pickle can choose what it describes and nothing else.

Limits  the number of opcodes, so that a small file cannot unfold to gigabytes of small objects; keys of mappings are
        texts and numbers (hashing a tuple nested a million deep would end the process).
Source  pickletools of the standard library for the opcodes; torch/_utils.py and torch/serialization.py for the calls.
"""

from __future__ import annotations

import pickletools
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pedigree.errors import MalformedFile, UnsafeFile
from pedigree.weights.pickle_names import CONVERT, DTYPES, MAPPINGS, STORAGES, check_name
from pedigree.weights.safetensors_header import shorten

MAX_OPCODES = 4_000_000
MAX_COPIED = 100_000


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function that the pickle names; `name` is module and name."""

    name: str


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A storage of the archive.

    Attributes:
        key: name of its record below `data/`.
        dtype: number type in safetensors words, None for untyped bytes or one without such a word.
        kind: how the pickle names the type.
    """

    key: str
    dtype: str | None
    kind: str


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor as the pickle describes it; sizes are what the file says, checked by nobody yet.

    Attributes:
        storage: where its values lie.
        dtype: number type in safetensors words, None where there is none.
        kind: how the pickle names the number type.
        offset: first element, counted in elements of the storage.
        shape: sizes, outermost first.
        stride: elements from one index of an axis to the next.
    """

    storage: StorageRef
    dtype: str | None
    kind: str
    offset: int
    shape: Any
    stride: Any


@dataclass(eq=False, slots=True)
class Opaque:
    """What a call that was not made would have given: the name that was called, and what it was given."""

    name: str
    parts: list[Any] = field(default_factory=list)


def describe(text: bytes, place: str) -> Any:
    """What a pickle describes: mappings, lists, tuples, plain values, `TensorRef`, `Global` and `Opaque`.

    Args:
        text: the bytes of `data.pkl`.
        place: where the file lies, for messages.

    Raises:
        UnsafeFile: the pickle names something that acts on the machine, or is absurdly long.
        MalformedFile: the pickle is damaged.
    """
    machine = _Machine(place)
    try:
        for count, (opcode, argument, _) in enumerate(_opcodes(text)):
            if count >= MAX_OPCODES:
                raise UnsafeFile(
                    "the pickle is absurdly long",
                    where=machine.where,
                    got=f"over {count} opcodes",
                    expected=f"{MAX_OPCODES} or fewer",
                    fix=CONVERT,
                )
            machine.step(opcode.name, argument)
        return machine.stack[-1]
    except (ValueError, LookupError, TypeError, AttributeError, struct.error) as error:
        reason = str(error).split("\n")[0]
        raise MalformedFile("the pickle is damaged", where=machine.where, got=shorten(reason)) from error


_VALUES = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    }
)
_CONSTANTS: dict[str, object] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_NOTHING_TO_DO = frozenset({"PROTO", "FRAME", "STOP"})
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """The stack and memo of a pickle; `step` follows one opcode."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.where = f"{place}: data.pkl"
        self.stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._n_copied = 0
        self._actions: dict[str, Callable[[Any], None]] = {
            "MARK": self._mark,
            "POP": self._pop,
            "POP_MARK": self._pop_mark,
            "DUP": lambda _: self._push(self.stack[-1]),
            "EMPTY_LIST": lambda _: self._push([]),
            "EMPTY_DICT": lambda _: self._push({}),
            "EMPTY_SET": lambda _: self._push(Opaque("builtins.set")),
            "LIST": lambda _: self._push(self._since_mark()),
            "TUPLE": lambda _: self._push(tuple(self._since_mark())),
            "FROZENSET": lambda _: self._push(Opaque("builtins.frozenset", self._since_mark())),
            "DICT": lambda _: self._push(_set_items({}, self._since_mark())),
            "APPEND": lambda _: self._append([self.stack.pop()]),
            "APPENDS": lambda _: self._append(self._since_mark()),
            "ADDITEMS": lambda _: self._append(self._since_mark()),
            "SETITEM": lambda _: self._set_item(),
            "SETITEMS": lambda _: self._set(self._since_mark()),
            "MEMOIZE": lambda _: self._put(len(self._memo)),
            "GLOBAL": self._global,
            "STACK_GLOBAL": self._stack_global,
            "REDUCE": lambda _: self._call(),
            "NEWOBJ": lambda _: self._call(),
            "NEWOBJ_EX": self._new_with_keywords,
            "INST": self._inst,
            "OBJ": self._obj,
            "BUILD": self._build,
            "BINPERSID": self._persistent,
        }
        for name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._actions[name] = self._put
        for name in ("GET", "BINGET", "LONG_BINGET"):
            self._actions[name] = lambda index: self._push(self._memo[index])

    def step(self, opcode: str, argument: Any) -> None:
        """Follow one opcode.

        Raises:
            LookupError, TypeError, ValueError, AttributeError: the pickle contradicts itself.
            MalformedFile: an opcode that no torch archive holds.
            UnsafeFile: a name that acts on the machine.
        """
        if opcode in _VALUES:
            # A number of more than 64 bits describes nothing, and could be as long as the file.
            huge = isinstance(argument, int) and abs(argument) >= 2**63
            self._push(Opaque("builtins.int") if huge else argument)
        elif opcode in _CONSTANTS:
            self._push(_CONSTANTS[opcode])
        elif opcode in _TUPLES:
            n = _TUPLES[opcode]
            if len(self.stack) < n:
                raise IndexError("the stack is empty")
            self.stack[-n:] = [tuple(self.stack[-n:])]
        elif opcode in self._actions:
            self._actions[opcode](argument)
        elif opcode not in _NOTHING_TO_DO:
            raise MalformedFile("an opcode that no torch archive holds", where=self.where, got=opcode)

    def _push(self, value: Any) -> None:
        # Not `self.stack.append(...)`: an argument that takes from the stack may have put another one in its place.
        self.stack.append(value)

    def _mark(self, _: Any) -> None:
        self._below.append(self.stack)
        self.stack = []

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self._below.pop()
        return items

    def _pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._since_mark()

    def _pop_mark(self, _: Any) -> None:
        self._since_mark()

    def _put(self, index: int) -> None:
        self._memo[index] = self.stack[-1]

    def _append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        (target.parts if isinstance(target, Opaque) else target).extend(items)

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Opaque):
            target.parts.extend(items)
        else:
            _set_items(target, items)

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._push(Global(check_name(module, name, self.place)))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("the name of a class is not text")
        self._push(Global(check_name(module, name, self.place)))

    def _call(self) -> None:
        """What a call would give, for the calls that make tensors and mappings; `Opaque` for all others."""
        arguments, callee = self.stack.pop(), self.stack.pop()
        if not isinstance(arguments, tuple):
            raise TypeError("the arguments of a call are not a tuple")
        name = _name_of(callee)
        made: Any = None
        if isinstance(callee, Global) and name in MAPPINGS:
            made = self._mapping(arguments)
        elif isinstance(callee, Global) and name in _REBUILDS:
            made = _REBUILDS[name](arguments)
        elif name in _MAKERS and arguments and isinstance(arguments[0], Global):
            name = arguments[0].name
        self._push(Opaque(name, [arguments]) if made is None else made)

    def _mapping(self, arguments: tuple[Any, ...]) -> dict[Any, Any]:
        """An OrderedDict of pairs, a Counter of a mapping, a defaultdict of a factory."""
        result: dict[Any, Any] = {}
        for argument in arguments:
            if isinstance(argument, dict | list):
                # A copy: one long list could be asked for again and again.
                self._n_copied += len(argument)
                if self._n_copied > MAX_COPIED:
                    raise ValueError("the same values are copied without end")
            if isinstance(argument, dict):
                result.update(argument)
            elif isinstance(argument, list):
                for key, value in argument:
                    _set_items(result, [key, value])
        return result

    def _new_with_keywords(self, _: Any) -> None:
        keywords, arguments, callee = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self._push(Opaque(_name_of(callee), [arguments, keywords]))

    def _inst(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        arguments = self._since_mark()
        self._push(Opaque(check_name(module, name, self.place), arguments))

    def _obj(self, _: Any) -> None:
        callee, *arguments = self._since_mark()
        self._push(Opaque(_name_of(callee), arguments))

    def _build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        # The state of a mapping or tensor is attributes (`_metadata`): no tensor of the model is kept there.
        if isinstance(target, Opaque):
            target.parts.append(state)
        elif not isinstance(target, dict | TensorRef):
            raise TypeError("a state for something that has none")

    def _persistent(self, _: Any) -> None:
        identity = self.stack.pop()
        if not isinstance(identity, tuple) or len(identity) < 3 or identity[0] != "storage":
            raise MalformedFile("a persistent object that is no storage", where=self.where)
        kind, key = identity[1], identity[2]
        if not isinstance(kind, Global) or not isinstance(key, str):
            raise MalformedFile("a storage without type or key", where=self.where)
        self._push(StorageRef(key, STORAGES.get(kind.name.rpartition(".")[2]), kind.name))


def _set_items(target: Any, items: list[Any]) -> dict[Any, Any]:
    """Put keys and values, one after the other, into a mapping; what is no text or number becomes a nameless key."""
    if not isinstance(target, dict) or len(items) % 2:
        raise TypeError("items for something that is no mapping")
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[key if isinstance(key, str | bytes | int | float) else Opaque("key", [key])] = value
    return target


def _name_of(callee: Any) -> str:
    return callee.name if isinstance(callee, Global | Opaque) else type(callee).__name__


def _tensor(arguments: tuple[Any, ...]) -> TensorRef | None:
    """`_rebuild_tensor(storage, offset, size, stride)`, and `_v2`, which adds gradient, hooks and marks."""
    if len(arguments) < 4 or not isinstance(arguments[0], StorageRef):
        return None
    # A mark says that the values are stored negated or conjugated.
    marks = arguments[6] if len(arguments) > 6 else None
    if marks:
        return None
    storage, offset, shape, stride = arguments[:4]
    return TensorRef(storage, storage.dtype, storage.kind, offset, shape, stride)


def _untyped_tensor(arguments: tuple[Any, ...]) -> TensorRef | None:
    """`_rebuild_tensor_v3(storage, offset, size, stride, gradient, hooks, dtype, marks)`."""
    if len(arguments) < 7 or not isinstance(arguments[0], StorageRef) or not isinstance(arguments[6], Global):
        return None
    if len(arguments) > 7 and arguments[7]:
        return None
    (storage, offset, shape, stride), kind = arguments[:4], arguments[6].name
    return TensorRef(storage, DTYPES.get(kind), kind, offset, shape, stride)


def _parameter(arguments: tuple[Any, ...]) -> TensorRef | None:
    """`_rebuild_parameter(data, gradient, hooks)`, and with the attributes of the parameter."""
    return arguments[0] if arguments and isinstance(arguments[0], TensorRef) else None


def _typed(arguments: tuple[Any, ...]) -> TensorRef | None:
    """`_rebuild_from_type_v2(function, type, arguments, state)`: a plain tensor or parameter with attributes."""
    if len(arguments) < 3 or not isinstance(arguments[0], Global) or not isinstance(arguments[1], Global):
        return None
    if arguments[1].name not in ("torch.Tensor", "torch.nn.parameter.Parameter") or not isinstance(arguments[2], tuple):
        return None
    rebuild = _REBUILDS.get(arguments[0].name)
    if rebuild is None or rebuild is _typed:
        return None
    made = rebuild(arguments[2])
    return made if isinstance(made, TensorRef) else None


def _size(arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """`torch.Size(sizes)`."""
    return arguments[0] if len(arguments) == 1 and isinstance(arguments[0], tuple) else None


# Ways of the pickle module to say "an object of this class".
_MAKERS = frozenset({"copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__"})
_REBUILDS: dict[str, Callable[[tuple[Any, ...]], TensorRef | tuple[Any, ...] | None]] = {
    "torch.Size": _size,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _untyped_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _typed,
}


def _opcodes(text: bytes) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    """The opcodes of a pickle; escapes in a damaged one that Python will refuse one day are no news to users."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield from pickletools.genops(text)
