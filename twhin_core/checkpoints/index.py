"""The index of a torch.distributed.checkpoint, which maps parts of tensors to files.

torch pickles it, and unpickling torch's classes imports much of torch.distributed, which takes a second. For code that
only reads rows, this module unpickles it into plain classes.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twhin_core import storage
from twhin_core.checkpoints.blocks import Digests, checksums, digest
from twhin_core.errors import TwhinError, UserError, damaged, one_line

INDEX = ".metadata"

_ENCODING = ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING")

# All names that torch's index contains. Any others are refused, because a pickle can call any function.
INDEX_NAMES = {
    _ENCODING,
    *(("torch.distributed.checkpoint.metadata", name) for name in (
        "Metadata", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata", "MetadataIndex",
        "BytesStorageMetadata", "StorageMeta",
    )),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    *(("torch", name) for name in ("Size", "float32", "float16", "bfloat16", "int64")),
}  # fmt: skip


@dataclass(frozen=True)
class StoredPart:
    """A part of a tensor, and the byte range of a file with its torch.save archive."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    path: str
    start: int
    length: int


@dataclass(frozen=True)
class StoredShape:
    """A tensor of a checkpoint."""

    dtype: str
    """A numpy name such as `float32`."""
    size: tuple[int, ...]
    parts: list[StoredPart]


class IndexUnpickler(pickle.Unpickler):
    """Unpickles an index, and refuses anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return self._memory_format
        if (module, name) not in INDEX_NAMES:
            raise _unknown(f"{module}.{name}")
        return self._class(module, name)

    def _class(self, module: str, name: str) -> Any:
        return super().find_class(module, name)

    def _memory_format(self, kind: Any, name: str) -> Any:
        """Replaces `getattr`, which early releases of Python 3.11 use to pickle enum members."""
        if kind is not self._class(*_ENCODING) or name not in kind.__members__:
            raise _unknown(f"getattr({kind}, {name!r})")
        return kind[name]


def _unknown(name: str) -> UserError:
    return UserError(f"the checkpoint's index names {name}, which does not belong in an index; it was not read")


class _Record:
    """Stands in for any class of the index, with the pickled state."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _MemoryFormat:
    """Stands in for torch's memory formats, which reading rows does not need."""

    __members__ = frozenset({"TORCH_CONTIGUOUS_FORMAT", "TORCH_CHANNELS_LAST", "TORCH_PRESERVE_FORMAT"})

    def __init__(self, number: int) -> None: ...

    def __class_getitem__(cls, name: str) -> None: ...


class _PlainUnpickler(IndexUnpickler):
    """Unpickles an index into `_Record`s."""

    def _class(self, module: str, name: str) -> Any:
        if module == "torch":
            return tuple if name == "Size" else name
        plain: dict[str, Callable[..., Any]] = {"_get_layout": str, "_MEM_FORMAT_ENCODING": _MemoryFormat}
        return plain.get(name, _Record)


def load_index(url: str, digests: Digests, unpickler: type[IndexUnpickler]) -> Any:
    """The index of the checkpoint at `url`.

    Raises:
        UserError: it is damaged or contains a name that does not belong in one.
    """
    place = storage.join(url, INDEX)
    content = storage.read_bytes(place)
    if INDEX in digests and digest(checksums(io.BytesIO(content))) != digests[INDEX]:
        raise damaged(place, "does not match its checksum")
    try:
        return unpickler(io.BytesIO(content)).load()
    except TwhinError:
        raise
    except Exception as error:  # noqa: BLE001 -- a pickle without a checksum that has changed can raise any
        raise damaged(place, f"cannot be read: {one_line(error)}") from None


def read_index(url: str, digests: Digests) -> dict[str, StoredShape]:
    """The tensors of the checkpoint at `url`, by name. Raises as `load_index`."""
    index = load_index(url, digests, _PlainUnpickler)
    assert isinstance(index, _Record)
    locations = {
        (key.state["fqn"], key.state.get("offset")): value.state for key, value in index.state["storage_data"].items()
    }
    return {
        name: _shape(name, stored.state, locations)
        for name, stored in index.state["state_dict_metadata"].items()
        if stored.state is not None and "chunks" in stored.state  # else it is not a tensor
    }


def _shape(name: str, stored: dict[str, Any], locations: dict[tuple[str, Any], dict[str, Any]]) -> StoredShape:
    parts = []
    for chunk in stored["chunks"]:
        offsets, sizes = chunk.state["offsets"], chunk.state["sizes"]
        location = locations[name, offsets]
        parts.append(StoredPart(offsets, sizes, location["relative_path"], location["offset"], location["length"]))
    return StoredShape(stored["properties"].state[0], stored["size"], parts)
