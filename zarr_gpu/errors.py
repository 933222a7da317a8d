"""Every exception zarr_gpu raises on purpose.

::

    ZarrGpuError
    |- MetadataError              ValueError         all problems of a document at once
    |  `- UnknownCodecError
    |- NodeNotFoundError          FileNotFoundError, ValueError
    |  |- ArrayNotFoundError
    |  `- GroupNotFoundError
    |- ContainsNodeError          FileExistsError, ValueError
    |  |- ContainsArrayError
    |  `- ContainsGroupError
    |- UnfinishedError            FileExistsError, ValueError   another job left its target
    |- NodeTypeError              ValueError         an array where a group was asked for
    |- SelectionError             IndexError
    |  |- BoundsCheckError
    |  `- VindexInvalidSelectionError
    |- CodecError                 ValueError         raised by a codec, which knows no key
    |  `- ChecksumMismatchError
    |- ChunkError                 ValueError         names array, key, byte range and codec
    |  |- ChunkDecodeError
    |  |  |- ChecksumError
    |  |  `- ShardIndexError
    |  |- ChunkEncodeError
    |  `- ChunkNotFoundError      also KeyError
    |- LimitError                 ValueError         a size above what the metadata allows
    |- UnsafeCodecError           ValueError         a codec that could run code (pickle)
    |- MissingDependencyError     ImportError        names the package to install
    |- StoreError                 OSError
    |  `- ReadOnlyError           PermissionError
    |- StoreKeyError              ValueError         a key that is not a legal relative path
    |- UnsafeConcurrentWriteError ValueError
    |- UnsupportedError           NotImplementedError
    `- DeviceUnavailableError     RuntimeError

Messages say what failed, where, what was expected and what was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal


class ZarrGpuError(Exception):
    """Base class of all errors raised by zarr_gpu."""


def _remade(kind: type[Exception], args: tuple[Any, ...], members: dict[str, Any]) -> Exception:
    """An error from another process, with the words and members that it had there."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(members)
    return error


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a metadata document.

    ``loc`` is the path inside the JSON document, for example ``("codecs", 0, "name")``.
    """

    loc: tuple[str | int, ...]
    message: str
    kind: Literal["missing", "type", "value", "unsupported", "syntax"] = "value"

    def __str__(self) -> str:
        path = ""
        for part in self.loc:
            path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
        return f"{path or '(document)'}: {self.message}"


class MetadataError(ZarrGpuError, ValueError):
    """A metadata document is invalid; :attr:`problems` lists every problem found."""

    def __init__(self, problems: Sequence[Problem] | str, *, document: str = "") -> None:
        if isinstance(problems, str):
            problems = (Problem((), problems),)
        self.problems = tuple(problems)
        self.document = document
        where = f"{document}: " if document else ""
        if len(self.problems) == 1:
            text = f"{where}{self.problems[0]}"
        else:
            lines = "".join(f"\n  - {problem}" for problem in self.problems)
            text = f"{where}{len(self.problems)} problems:{lines}"
        super().__init__(text)

    def __reduce__(self) -> Any:
        return _remade, (type(self), self.args, self.__dict__)

    def at(self, document: str) -> MetadataError:
        """The same error, naming the document it was found in."""
        return type(self)(self.problems, document=document)


class UnknownCodecError(MetadataError):
    """A codec name that no registered codec and no installed package answers to."""


class NodeNotFoundError(ZarrGpuError, FileNotFoundError, ValueError):
    """Neither an array nor a group at the path."""


class ArrayNotFoundError(NodeNotFoundError):
    """No array at the path."""


class GroupNotFoundError(NodeNotFoundError):
    """No group at the path."""


class ContainsNodeError(ZarrGpuError, FileExistsError, ValueError):
    """A node is already at the path."""


class ContainsArrayError(ContainsNodeError):
    """An array is already at the path."""


class ContainsGroupError(ContainsNodeError):
    """A group is already at the path."""


class UnfinishedError(ZarrGpuError, FileExistsError, ValueError):
    """The target of a job holds the unfinished work of another one."""


class NodeTypeError(ZarrGpuError, ValueError):
    """The node at the path is of the other type than the one asked for."""


class SelectionError(ZarrGpuError, IndexError):
    """A selection that does not fit the array."""


class BoundsCheckError(SelectionError):
    """An index outside the array."""


class VindexInvalidSelectionError(SelectionError):
    """A coordinate selection that is not made of integer arrays or one mask."""


class CodecError(ZarrGpuError, ValueError):
    """A codec met bytes or values it cannot handle.

    Codecs know neither array nor key; the backend wraps this into a :class:`ChunkError`.
    """

    def __init__(
        self, message: str, *, codec: str = "", expected: object = None, found: object = None
    ) -> None:
        self.codec = codec
        self.expected = expected
        self.found = found
        self.message = message
        detail = ""
        if expected is not None or found is not None:
            detail = f" (expected {expected}, found {found})"
        super().__init__(f"{codec}: {message}{detail}" if codec else message)

    def __reduce__(self) -> Any:
        return _remade, (type(self), self.args, self.__dict__)


class ChecksumMismatchError(CodecError):
    """Stored and computed checksum differ."""


class ChunkError(ZarrGpuError, ValueError):
    """Something is wrong with one stored chunk.

    Attributes
    ----------
    array : path of the array in its store
    key : key of the object that holds the chunk
    byte_range : ``(offset, nbytes)`` inside the object, or None for the whole object
    codec : name of the codec that failed, or None

    With a message alone it names them itself: so PyTorch raises errors of its workers again.
    """

    def __init__(
        self,
        message: str,
        *,
        array: str = "",
        key: str = "",
        byte_range: tuple[int, int] | None = None,
        codec: str | None = None,
        expected: object = None,
        found: object = None,
    ) -> None:
        self.array = array
        self.key = key
        self.byte_range = byte_range
        self.codec = codec
        self.expected = expected
        self.found = found
        place = f"array {array or '/'!r}, key {key!r}"
        if byte_range is not None:
            place += f", bytes {byte_range[0]}..{byte_range[0] + byte_range[1]}"
        super().__init__(f"{place}: {message}" if key else message)

    def __reduce__(self) -> Any:
        return _remade, (type(self), self.args, self.__dict__)


class ChunkDecodeError(ChunkError):
    """A stored chunk cannot be decoded."""


class ChecksumError(ChunkDecodeError):
    """A stored chunk does not match its checksum."""


class ShardIndexError(ChunkDecodeError):
    """The index of a shard is damaged."""


class ChunkEncodeError(ChunkError):
    """A chunk cannot be encoded for storage."""


class ChunkNotFoundError(ChunkError, KeyError):
    """A chunk is missing and the configuration says that this is an error."""

    __str__ = Exception.__str__  # KeyError would print the repr of the message


class LimitError(ZarrGpuError, ValueError):
    """A size exceeds what the metadata or a configured limit allows."""

    def __init__(self, message: str, *, expected: object = None, found: object = None) -> None:
        self.expected = expected
        self.found = found
        super().__init__(message)


class UnsafeCodecError(ZarrGpuError, ValueError):
    """Decoding would run code taken from the data (pickle) and was not opted into."""


class MissingDependencyError(ZarrGpuError, ImportError):
    """An optional package is needed; the message names it."""


class CheckpointError(ZarrGpuError, ValueError):
    """A checkpoint is damaged, incomplete, or not what was asked for."""


class StoreError(ZarrGpuError, OSError):
    """A store failed; ``transient`` says whether trying again can help."""

    transient: bool = False


class ReadOnlyError(StoreError, PermissionError, ValueError):
    """A write to a store or array that was opened for reading."""


class StoreKeyError(ZarrGpuError, ValueError):
    """A key or path that is not a plain relative path inside the store."""


class UnsafeConcurrentWriteError(ZarrGpuError, ValueError):
    """A write that would share a chunk or shard with other writers on a store without locks."""


class UnsupportedError(ZarrGpuError, NotImplementedError):
    """A legal request that zarr_gpu does not implement."""


class DeviceUnavailableError(ZarrGpuError, RuntimeError):
    """The device asked for cannot be used; the message says why."""


class DeviceFallbackWarning(UserWarning):
    """The host does for the device what the device cannot; results are the same."""


# Names under which users of zarr-python know some of these.
BaseZarrError = ZarrGpuError
MetadataValidationError = MetadataError
NodeTypeValidationError = NodeTypeError
PickleCodecDisabledError = UnsafeCodecError
ArrayIndexError = SelectionError
