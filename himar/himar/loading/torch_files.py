"""Reads what `torch.save` wrote without running any code of it: tensors, plain values, and stand-ins for the rest.

PyTorch's own `weights_only` unpickler does the reading. It is given a stand-in (`Record`) for every class that it does
not know and that may stand in a checkpoint, so that no object of the file is ever made, not even a harmless one.
"""

from __future__ import annotations

import pickle
import pickletools
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from sys import stdlib_module_names
from typing import Any, BinaryIO

import numpy as np
import torch

from himar_kernels import CheckpointError

_MAGIC = 0x1950A86A20F9469CFC6C
_MOST_PICKLE_BYTES = 2**30
_PICKLES_OF_AN_OLD_FILE = 4
"""Magic number, protocol, system, content; storages follow."""


class Record:
    """Stands for an object that was not made: its arguments, and the state it would have been given."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __new__(cls, *arguments: Any) -> Any:
        """Unpicklers call this alone for most objects."""
        record = super().__new__(cls)
        record.__init__(*arguments)  # type: ignore[misc]
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Array(Record):
    """Stands for a NumPy array."""

    def tensor(self) -> torch.Tensor:
        """Return the array of floating-point numbers as a tensor. Raises ValueError for any other."""
        try:
            _, shape, dtype, fortran, data = self.state
            kind, order = dtype.arguments[0], dtype.state[1]
            if kind not in ("f2", "f4", "f8"):
                raise ValueError(f"an array of {kind}")
            flat = np.frombuffer(data, np.dtype(kind).newbyteorder(order))
            values = flat.reshape(shape, order="F") if fortran else flat.reshape(shape)
        except (TypeError, AttributeError, IndexError) as error:
            raise ValueError("an array that is not whole") from error
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.dtype(kind)).copy())


class _Mapping:
    """Stands for a class that is filled as a mapping is; attributes land in the mapping's `__dict__`."""

    def __new__(cls, *arguments: Any) -> Any:
        return OrderedDict()


def _array(*arguments: Any) -> Array:
    return Array(*arguments)


def _dict(*arguments: Any) -> dict[Any, Any]:
    """A defaultdict is read as the plain mapping that it holds, without its factory."""
    return {}


def _list(*arguments: Any) -> list[Any]:
    return list(arguments[0]) if arguments and isinstance(arguments[0], list | tuple) else []


_NUMPY_RANDOM = {
    "numpy.random._pickle": ("__randomstate_ctor", "__generator_ctor", "__bit_generator_ctor"),
    "numpy.random._mt19937": ("MT19937",),
    "numpy.random._pcg64": ("PCG64", "PCG64DXSM"),
    "numpy.random._philox": ("Philox",),
    "numpy.random._sfc64": ("SFC64",),
    "numpy.random.mtrand": ("RandomState",),
    "numpy.random._generator": ("Generator",),
    "numpy.random.bit_generator": ("SeedSequence", "__pyx_unpickle_SeedSequence"),
}
_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
_HARMLESS: dict[str, tuple[str, ...]] = {
    "argparse": ("Namespace",),
    "types": ("SimpleNamespace",),
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,
    "datetime": ("datetime", "date", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
    "uuid": ("UUID", "SafeUUID"),
    "builtins": (
        *("int", "float", "str", "bool", "bytes", "list", "dict", "tuple", "frozenset"),
        *("object", "slice", "range"),
    ),
    "copyreg": ("_reconstructor",),
    "numpy": (
        *("dtype", "ndarray", "bool_", "bool", "generic"),
        *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
        *(f"float{bits}" for bits in (16, 32, 64)),
    ),
    "numpy._core.multiarray": ("scalar",),
    "numpy.core.multiarray": ("scalar",),
    "numpy.dtypes": tuple(f"{kind}DType" for kind in ("Float16", "Float32", "Float64", "Int32", "Int64", "Bool")),
    "torch.torch_version": ("TorchVersion",),
    "torch": ("Generator",),
    **_NUMPY_RANDOM,
}
_STAND_INS: dict[str, Any] = {
    **{f"{module}.{name}": Record for module, names in _HARMLESS.items() for name in names},
    "collections.defaultdict": _dict,
    "collections.deque": _list,
    "numpy._core.multiarray._reconstruct": _array,
    "numpy.core.multiarray._reconstruct": _array,
    "himar.stand_in.Array": Array,  # No file's name: the unpickler gives state only to types that it was told of.
}


_PLAIN_ENOUGH = ("functools.partial", "logging.getLogger", "logging.Logger")
"""Of Python's library, what training code leaves in checkpoints without meaning harm; read like anyone's class."""


def read_torch(path: Path, *, inert: bool = False) -> Any:
    """Return what a PyTorch file holds, on the CPU: tensors, plain values, `Record`s; tensors may be mapped.

    inert: classes of anyone's code are read as `Record`s too; names of Python's own library that checkpoints do not
    need are refused still.
    Raises CheckpointError when the file is damaged, is a TorchScript archive, or needs code to be read.
    """
    mapped = zipfile.is_zipfile(path)
    unknown = sorted(_globals(path, mapped) - _known())
    foreign = [name for name in unknown if name.split(".")[0] in stdlib_module_names and name not in _PLAIN_ENOUGH]
    if foreign:
        raise CheckpointError(
            f"{path} calls {_listed(foreign)} of Python's own library, which weights do not need and attacks do; "
            f"nothing was run. Take the file from someone whom you trust, or read himar strip --help on --allow-code."
        )
    if unknown and not inert:
        raise CheckpointError(f"{path} holds {_listed(unknown)}; it could run code and was not read. {_way_out(path)}")
    attempts = (Record, _Mapping) if unknown else (Record,)
    for attempt in attempts:
        try:
            return _load(path, mapped, {**_STAND_INS, **dict.fromkeys(unknown, attempt)})
        except pickle.UnpicklingError as error:
            if attempt is attempts[-1]:
                raise _refused(path, error, bool(unknown)) from error
        except Exception as error:  # A damaged file raises anything.
            raise CheckpointError(f"{path} is damaged or cut short; fetch it again.") from error
    raise AssertionError(path)


def _load(path: Path, mapped: bool, stand_ins: dict[str, Any]) -> Any:
    # Mapping the file keeps the optimizer's tensors of a training checkpoint out of memory; compressed ones it cannot.
    if mapped:
        with zipfile.ZipFile(path) as archive:
            mapped = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    safe: list[Any] = [(stand_in, name) for name, stand_in in stand_ins.items()]
    with warnings.catch_warnings(), torch.serialization.safe_globals(safe):
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _refused(path: Path, error: pickle.UnpicklingError, inert: bool) -> CheckpointError:
    if inert:
        return CheckpointError(
            f"{path} has objects that can be rebuilt only by running its code; himar strip --help says what "
            f"--allow-code does, or write its weights with torch.save(model.state_dict(), FILE) where it was made."
        )
    unsafe = " GLOBAL " in str(error)
    if unsafe:
        name = str(error).split(" GLOBAL ", 1)[1].split()[0]
        return CheckpointError(f"{path} holds {name}; it could run code and was not read. {_way_out(path)}")
    return CheckpointError(f"{path} is damaged or not a PyTorch checkpoint; fetch it again.")


def _way_out(path: Path) -> str:
    return (
        f"himar strip {path} OUT.safetensors keeps only its weights; or write them with "
        f"torch.save(model.state_dict(), FILE) where it was made."
    )


def _listed(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"{name:.80}" for name in names[:most]) + more


def _known() -> set[str]:
    from torch._weights_only_unpickler import _get_allowed_globals

    return {*_STAND_INS, *_get_allowed_globals()}


def _globals(path: Path, archive: bool) -> set[str]:
    """Return the full name of every class and function that the file's pickles name. Runs nothing."""
    try:
        if archive:
            with zipfile.ZipFile(path) as content:
                names = {name.rpartition("/")[2]: name for name in content.namelist() if name.count("/") <= 1}
                if "constants.pkl" in names:
                    raise CheckpointError(
                        f"{path} is a TorchScript archive, a program with weights in it, and was not read; write the "
                        f"weights with torch.save(torch.jit.load({path.name!r}).state_dict(), FILE)."
                    )
                if content.getinfo(names["data.pkl"]).file_size > _MOST_PICKLE_BYTES:
                    raise ValueError("the pickle is beyond every checkpoint's")
                with content.open(names["data.pkl"]) as file:
                    return set(_named(file, path))
        with path.open("rb") as file:
            return {name for number in range(_PICKLES_OF_AN_OLD_FILE) for name in _named(file, path, number == 0)}
    except CheckpointError:
        raise
    except Exception as error:  # A damaged file raises anything.
        raise CheckpointError(f"{path} is damaged or cut short; fetch it again.") from error


def _named(file: BinaryIO | Any, path: Path, magic: bool = False) -> Iterator[str]:
    """Yield the names in one pickle; `magic`: it must be the number that old PyTorch files begin with."""
    found = False
    argument: Any
    for operation, argument, _ in pickletools.genops(file):
        found |= argument == _MAGIC
        if operation.name == "PROTO" and argument > 2:
            raise CheckpointError(
                f"{path} is a pickle of protocol {argument}, and torch.save writes protocol 2; write its weights again "
                f"with torch.save(state_dict, FILE), or read himar strip --help on --allow-code."
            )
        if operation.name in ("GLOBAL", "INST"):
            module, _, name = argument.partition(" ")
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            yield f"{module}.{name}"
    if magic and not found:
        raise CheckpointError(
            f"{path} is a pickle that torch.save did not write; write its weights with torch.save(state_dict, FILE)."
        )
