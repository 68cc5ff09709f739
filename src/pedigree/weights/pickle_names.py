"""Names of classes and functions inside a pickle: what they are to a reader that never calls any of them.

A pickle is a program that names functions and asks for calls. Ours is read without calling (see `torch_pickle`), so
an unknown name can do nothing. Three kinds are told apart all the same:
known     what plain tensors and mappings need; the reader knows what these calls would have built
inert     classes that hold data; an object of theirs beside the tensors is left unread
refused   names that act on the machine: a file that asks for one was made to harm, whatever else it holds
"""

from __future__ import annotations

import sys

from pedigree.errors import UnsafeFile
from pedigree.weights.number_types import TORCH_NAMES
from pedigree.weights.safetensors_header import shorten

CONVERT = "convert it to safetensors on a machine you trust: safetensors.torch.save_file(model.state_dict(), path)"

MAPPINGS = frozenset({"collections.OrderedDict", "collections.defaultdict", "collections.Counter"})
"""Classes whose objects are read as plain mappings."""

STORAGES: dict[str, str] = {
    "BFloat16Storage": "BF16",
    "BoolStorage": "BOOL",
    "ByteStorage": "U8",
    "CharStorage": "I8",
    "ComplexFloatStorage": "C64",
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "IntStorage": "I32",
    "LongStorage": "I64",
    "ShortStorage": "I16",
}
"""Number type of a typed storage, by the last part of its name."""

DTYPES: dict[str, str] = {f"torch.{torch_name}": name for name, torch_name in TORCH_NAMES.items() if name != "F4"}
"""Number type by the name of a torch dtype; F4 packs two values in an element and is not read from archives."""

# Modules of the standard library whose classes only hold data. Everything else in it is refused: what is harmless
# there (pprint, calendar) has no business in a checkpoint, and a list of what is harmful would never be complete.
_DATA_MODULES = frozenset(
    {
        "_codecs",
        "argparse",
        "collections",
        "copyreg",
        "dataclasses",
        "datetime",
        "decimal",
        "enum",
        "fractions",
        "pathlib",
        "pathlib._local",
        "random",
        "typing",
        "uuid",
        "zoneinfo",
    }
)
_DATA_BUILTINS = frozenset(
    {
        "bool",
        "bytearray",
        "bytes",
        "complex",
        "dict",
        "float",
        "frozenset",
        "int",
        "list",
        "object",
        "range",
        "set",
        "slice",
        "str",
        "tuple",
    }
)
# Not of the standard library: unpicklers and evaluators in packages that are often installed, and Python 2.
_ACTING_MODULES = (
    "IPython",
    "cloudpickle",
    "commands",
    "dill",
    "distutils",
    "joblib",
    "numexpr",
    "numpy.distutils",
    "numpy.f2py",
    "numpy.testing",
    "os2",
    "pip",
    "pkg_resources",
    "py",
    "setuptools",
    "torch._C",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed",
    "torch.fx",
    "torch.hub",
    "torch.jit",
    "torch.multiprocessing",
    "torch.package",
    "torch.serialization",
    "torch.utils",
)
_ACTING_NAMES = frozenset(
    {
        "numpy.load",
        "pandas.eval",
        "pandas.read_pickle",
        "torch.compile",
        "torch.load",
        "torch.save",
        "torch.storage._load_from_bytes",
    }
)


def check_name(module: str, name: str, place: str) -> str:
    """The full name of a global of a pickle.

    Args:
        module: module as the pickle writes it.
        name: name in the module, dotted where the pickle's protocol allows.
        place: where the file lies, for messages.

    Raises:
        UnsafeFile: the name acts on the machine.
    """
    full = f"{module}.{name}"
    if _acts(module, name, full):
        raise refusal(full, f"{place}: data.pkl")
    return full


def _acts(module: str, name: str, full: str) -> bool:
    root = module.partition(".")[0]
    if root in ("builtins", "__builtin__"):
        return name not in _DATA_BUILTINS
    # A dotted name climbs from a class into whatever its module has imported.
    if "." in name:
        return root != "torch" or _below(full, _ACTING_MODULES)
    if root in sys.stdlib_module_names:
        return module not in _DATA_MODULES
    return full in _ACTING_NAMES or _below(full, _ACTING_MODULES)


def _below(full: str, modules: tuple[str, ...]) -> bool:
    return any(full.startswith(f"{module}.") for module in modules)


def is_inert(full: str) -> bool:
    """Whether a name holds plain data of Python or torch, so that leaving an object of it unread needs no word."""
    root = full.partition(".")[0]
    return (
        root in ("builtins", "__builtin__", "_codecs", "copyreg", "collections")
        or full in DTYPES
        or full
        in (
            "torch.Size",
            "torch.device",
        )
    )


def refusal(name: str, where: str) -> UnsafeFile:
    """The error for a file that carries more than tensors."""
    return UnsafeFile(
        "the file carries a Python class or function, not only tensors",
        where=where,
        got=shorten(name),
        expected="a state dict: names and tensors",
        fix=CONVERT,
    )
