"""zarr-python reading and writing through zarr_gpu.

>>> import zarr, zarr_gpu
>>> with zarr_gpu.enable():
...     a = zarr.create_array({}, shape=(4, 4), chunks=(2, 2), dtype="int16")
...     a[1:3] = 7
...     int(a[...].sum())
56

:func:`zarr_gpu.enable` makes :class:`CodecPipeline` the codec pipeline of zarr-python, and so of
everything that is built on it: xarray, dask, anndata. Without a line of code, the environment
variable ``ZARR_CODEC_PIPELINE__PATH=zarr_gpu.interop.zarr_python.CodecPipeline`` does the same;
nothing has to be imported. zarr-python hands a pipeline every read and every write as a whole; ours
goes through the same planner and backends as :class:`zarr_gpu.Array`, shards included: on the
device where zarr-python's GPU buffers are on (``zarr.config.enable_gpu()``), else on the host.

What cannot be done that way is done by zarr-python's own pipeline, without a warning: arrays of
strings and objects, codecs and data types of other packages, outputs of another type.
:func:`explain` says for an array which of the two is at work and why, :func:`statistics` counts.

zarr-python loads this module whenever it looks for pipelines, also in programs that do not use it:
it imports nothing else of zarr_gpu until an array is read.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from zarr_gpu.errors import MissingDependencyError, UnsupportedError

try:
    from zarr.abc import codec as abc
    from zarr.core.config import config
    from zarr.registry import register_pipeline
except ImportError as error:
    raise MissingDependencyError(
        "the plug-in for zarr-python needs the package zarr>=3.1 (pip install zarr)"
    ) from error

if TYPE_CHECKING:
    from zarr_gpu.interop.zarr_access import Access

__all__ = [
    "PATH",
    "STRICT",
    "CodecPipeline",
    "config",
    "explain",
    "register_pipeline",
    "statistics",
]

T = TypeVar("T")
PATH = f"{__name__}.CodecPipeline"
"""What zarr-python's setting ``codec_pipeline.path`` has to be."""
STRICT = "codec_pipeline.strict"
"""True: raise UnsupportedError where zarr-python's own pipeline would step in."""
THREADS = 64
"""Requests that wait at once, each for its store or for the decoding threads."""


class CodecPipeline(abc.CodecPipeline):  # type: ignore[misc]  # zarr's types are not looked at
    """What zarr-python calls for the chunks of one array."""

    def __init__(self, metadata: Any, store: Any) -> None:
        from zarr.core.array import create_codec_pipeline

        self.metadata = metadata
        self.store = store
        # zarr-python's own; made now, for what it has to say about the codecs.
        self.fallback = create_codec_pipeline(metadata)
        self._access: Access | str | None = None

    @classmethod
    def from_array_metadata_and_store(cls, array_metadata: Any, store: Any) -> CodecPipeline:
        return cls(array_metadata, store)

    @classmethod
    def from_codecs(cls, codecs: Iterable[Any]) -> Any:
        """zarr-python's own pipeline: for the inside of its shards, which only it asks for."""
        from zarr.core.codec_pipeline import BatchedCodecPipeline

        return BatchedCodecPipeline.from_codecs(codecs)

    def evolve_from_array_spec(self, array_spec: Any) -> CodecPipeline:
        return self

    def __reduce__(self) -> Any:
        return type(self), (self.metadata, self.store)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CodecPipeline):
            return NotImplemented
        return bool(self.metadata == other.metadata and self.store == other.store)

    def __hash__(self) -> int:
        return hash(type(self))  # metadata cannot be hashed

    def __repr__(self) -> str:
        return f"<zarr_gpu's CodecPipeline of an array in {self.store!r}>"

    # -- what is about codecs alone ---------------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fallback)

    @property
    def supports_partial_decode(self) -> bool:
        return bool(self.fallback.supports_partial_decode)

    @property
    def supports_partial_encode(self) -> bool:
        return bool(self.fallback.supports_partial_encode)

    def validate(self, **arguments: Any) -> None:
        self.fallback.validate(**arguments)

    def compute_encoded_size(self, byte_length: int, array_spec: Any) -> int:
        return int(self.fallback.compute_encoded_size(byte_length, array_spec))

    async def decode(self, chunk_bytes_and_specs: Iterable[Any]) -> Any:
        return await self.fallback.decode(chunk_bytes_and_specs)

    async def encode(self, chunk_arrays_and_specs: Iterable[Any]) -> Any:
        return await self.fallback.encode(chunk_arrays_and_specs)

    # -- reading and writing ----------------------------------------------------------------------

    @property
    def access(self) -> Access | str:
        """How the array is accessed, or the reason why only zarr-python can."""
        if self._access is None:
            from zarr_gpu.interop.zarr_access import access_to

            self._access = access_to(self.metadata, self.store)
        return self._access

    async def read(
        self, batch_info: Iterable[Any], out: Any, drop_axes: tuple[int, ...] = ()
    ) -> Any:
        """Fill ``out``; the status, ``present`` or ``missing``, of each item."""
        batch = list(batch_info)
        if not batch:
            return ()
        access = self.access
        if not isinstance(access, str):
            done = await _call(access.read, access.small(batch), batch, out, tuple(drop_axes))
            if not isinstance(done, str):
                _count("reads")
                return done
            access = done
        _fall_back(access)
        return await self.fallback.read(batch, out, drop_axes)

    async def write(
        self, batch_info: Iterable[Any], value: Any, drop_axes: tuple[int, ...] = ()
    ) -> None:
        """Store ``value``."""
        batch = list(batch_info)
        if not batch:
            return
        access = self.access
        if not isinstance(access, str):
            done = await _call(access.write, access.small(batch), batch, value, tuple(drop_axes))
            if done is None:
                _count("writes")
                return
            access = done
        _fall_back(access)
        await self.fallback.write(batch, value, drop_axes)


async def _call(task: Callable[..., T], here: bool, *arguments: Any) -> T:
    """``task(loop, ...)``: in the event loop's thread, or while the loop goes on, in another."""
    loop = asyncio.get_running_loop()
    if here:
        return task(loop, *arguments)
    return await loop.run_in_executor(_threads(), task, loop, *arguments)


# -- threads and counters -------------------------------------------------------------------------

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_counts: Counter[str] = Counter()
_reasons: Counter[str] = Counter()


def _threads() -> ThreadPoolExecutor:
    """Threads of our own: stores need those of the event loop while ours wait for them."""
    global _pool  # noqa: PLW0603 - the one pool of the process
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(THREADS, thread_name_prefix="zarr_gpu plug-in")
        return _pool


def _after_fork() -> None:
    """A child has none of its parent's threads, and may hold a copy of a locked lock."""
    global _pool, _lock  # noqa: PLW0603 - the one pool of the process
    _pool = None
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def _count(what: str) -> None:
    with _lock:
        _counts[what] += 1


def _fall_back(reason: str) -> None:
    if config.get(STRICT, False):
        raise UnsupportedError(f"zarr_gpu leaves this to zarr-python's own pipeline: {reason}")
    with _lock:
        _reasons[reason] += 1


def statistics() -> dict[str, Any]:
    """What this process has done so far through the plug-in.

    ``reads`` and ``writes`` count requests done by zarr_gpu; ``fallbacks`` those left to
    zarr-python's own pipeline, by reason.
    """
    with _lock:
        return {
            "reads": _counts["reads"],
            "writes": _counts["writes"],
            "fallbacks": dict(_reasons),
        }


def explain(array: Any, selection: Any = ...) -> str:
    """What reading ``selection`` of an array of zarr-python does, as text.

    One line where the plug-in has no part in it, with the reason; else what
    :meth:`zarr_gpu.Array.explain` says.
    """
    inner = getattr(array, "async_array", None) or getattr(array, "_async_array", array)
    pipeline = inner.codec_pipeline
    if not isinstance(pipeline, CodecPipeline):
        return f"zarr-python's own pipeline ({type(pipeline).__name__}): zarr_gpu is not enabled"
    access = pipeline.access
    if isinstance(access, str):
        return f"zarr-python's own pipeline: {access}"
    return access.explain(inner.store_path.path, inner.metadata.shape, selection)
