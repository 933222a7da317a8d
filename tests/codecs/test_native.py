"""The libraries inside numcodecs' wheels: addresses, threads, forks, and platforms without them."""

import _ctypes
import contextlib
import ctypes
import gc
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.codecs.checks import FIELD, mutants
from zarr_gpu.codecs import _native
from zarr_gpu.codecs.base import Size
from zarr_gpu.codecs.blosc import BloscCodec
from zarr_gpu.codecs.gzip import GzipCodec
from zarr_gpu.codecs.lz4 import LZ4Codec
from zarr_gpu.codecs.zlib import ZlibCodec
from zarr_gpu.codecs.zstd import ZstdCodec
from zarr_gpu.errors import CodecError

CODECS = [ZstdCodec(1), BloscCodec(4, "lz4"), LZ4Codec(), GzipCodec(1), ZlibCodec(1)]
each_codec = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
needs_library = pytest.mark.skipif(
    sys.platform != "linux", reason="modules export their libraries on Linux"
)


def buffers():
    array = np.arange(100, dtype=np.uint8)
    frozen = array.copy()
    frozen.flags.writeable = False
    kinds = {
        "bytes": bytes(array),
        "bytearray": bytearray(array),
        "memoryview of bytes": memoryview(b"x" + bytes(array))[1:],
        "memoryview of a bytearray": memoryview(bytearray(b"x" + bytes(array)))[1:],
        "memoryview of an array": array.data,
        "memoryview of a read-only array": frozen.data,
    }
    return [pytest.param(data, id=name) for name, data in kinds.items()]


@pytest.mark.parametrize("data", buffers())
def test_pointer_is_where_the_bytes_are(data):
    copy = np.zeros(100, np.uint8)
    memcpy = ctypes.memmove
    memcpy(copy.ctypes.data, _native.pointer(data), 100)
    assert copy.tolist() == list(range(100))


def test_readonly_buffers_are_released():
    data = bytearray(10)
    view = memoryview(data).toreadonly()
    _native.pointer(view)
    view.release()
    data.append(1)  # BufferError while anyone still holds it


@needs_library
def test_libraries_are_found():
    assert _native.zstd().version >= 10400
    assert _native.lz4().version >= 10900
    assert _native.blosc() is not None


@needs_library
def test_libdeflate_is_found():
    pytest.importorskip("deflate")
    assert _native.deflate() is not None


@each_codec
def test_nothing_is_written_beside_the_output(codec):
    encoded = codec.encode(FIELD)
    memory = bytearray(b"\xa5" * (len(FIELD) + 512))
    out = memoryview(memory)[256:-256]
    for damaged in [bytes(encoded), *mutants(encoded, 200)]:
        with contextlib.suppress(CodecError):
            codec.decode(damaged, Size(len(FIELD)), out)
        assert memory[:256] == memory[-256:] == b"\xa5" * 256


@each_codec
def test_threads_do_not_share_contexts(codec):
    samples = [np.random.default_rng(i).bytes(500) * 7 + bytes(i) for i in range(200)]

    def round_trips(i):
        data = samples[i]
        return bytes(codec.decode(codec.encode(data), Size(len(data)))) == data

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(round_trips, range(200)))


def test_contexts_are_freed_with_their_thread():
    created, freed = [], []

    def create():
        created.append(len(created) + 1)
        return created[-1]

    contexts = _native._PerThread(create, freed.append)
    for _ in range(3):
        thread = threading.Thread(target=lambda: (contexts.handle, contexts.handle))
        thread.start()
        thread.join()
    gc.collect()
    assert sorted(freed) == [2, 3, 4]  # the first belongs to this thread
    assert contexts.handle == 1
    assert created == [1, 2, 3, 4]


def test_no_memory_for_a_context_is_an_error():
    with pytest.raises(MemoryError):
        _native._Context(lambda: None, lambda handle: None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@each_codec
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_decodes(codec):
    encoded = bytes(codec.encode(FIELD))  # contexts exist
    child = os.fork()
    if child == 0:
        good = False
        try:
            good = bytes(codec.decode(codec.encode(FIELD), Size(len(FIELD)))) == FIELD
            good = good and bytes(codec.decode(encoded, Size(len(FIELD)))) == FIELD
        finally:
            os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0


# -- platforms without the libraries ---------------------------------------------------------------

FINDERS = [_native._zstd, _native._blosc, _native._lz4, _native._deflate]
each_finder = pytest.mark.parametrize("finder", FINDERS, ids=lambda finder: finder.__name__)


def find_in(monkeypatch, finder, path):
    monkeypatch.setattr(_native, "_path", lambda module: path)
    return finder.__wrapped__()


@each_finder
@pytest.mark.parametrize("path", [None, os.devnull, "/nowhere/zstd.so", _ctypes.__file__])
def test_a_module_without_what_is_needed_gives_no_library(monkeypatch, finder, path):
    assert find_in(monkeypatch, finder, path) is None


@each_finder
def test_a_module_that_is_not_installed_gives_no_library(monkeypatch, finder):
    monkeypatch.setattr(_native, "find_spec", lambda package: None)
    assert finder.__wrapped__() is None


@needs_library
def test_libraries_are_found_without_importing_numcodecs():
    code = """
import sys
from zarr_gpu.codecs import _native
assert _native.zstd() and _native.blosc() and _native.lz4()
assert "numcodecs" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_library
@pytest.mark.parametrize(
    ("finder", "name"),
    [
        (_native._zstd, "_MIN_ZSTD"),
        (_native._system_zstd, "_MIN_SYSTEM_ZSTD"),
        (_native._lz4, "_MIN_LZ4"),
    ],
)
def test_an_old_library_is_not_used(monkeypatch, finder, name):
    if finder is not _native._system_zstd:  # not every system has one
        assert finder.__wrapped__() is not None
    monkeypatch.setattr(_native, name, 990_000)
    assert finder.__wrapped__() is None


@needs_library
@pytest.mark.parametrize(
    ("finder", "cls"),
    [(_native._zstd, _native.Zstd), (_native._lz4, _native.Lz4), (_native._blosc, _native.Blosc)],
)
def test_a_library_that_decodes_wrongly_is_not_used(monkeypatch, finder, cls):
    monkeypatch.setattr(cls, "decompress", lambda *args: 128)  # and leaves the output as it was
    assert finder.__wrapped__() is None


@needs_library
def test_a_library_that_encodes_wrongly_is_not_used(monkeypatch):
    monkeypatch.setattr(_native.Zstd, "compress", lambda *args: b"no frame")
    assert _native._zstd.__wrapped__() is None
    assert _native._system_zstd.__wrapped__() is None
    if _native.deflate() is not None:
        monkeypatch.setattr(_native.Deflate, "compress", lambda *args, **kwargs: 0)
        assert _native._deflate.__wrapped__() is None


@needs_library
def test_zstd_is_decoded_by_the_library_of_the_system_where_there_is_one(monkeypatch):
    found = _native._system_zstd.__wrapped__()
    assert found is None or found.version >= 10502
    monkeypatch.setattr(_native, "_SYSTEM_ZSTD", "libnosuchthing.so.1")
    assert _native._system_zstd.__wrapped__() is None
    monkeypatch.setattr(_native, "_system_zstd", lambda: None)
    assert _native.zstd_decoder() is _native.zstd()


def test_tests_can_do_without(monkeypatch):
    monkeypatch.setattr(_native, "ENABLED", False)
    assert (
        _native.zstd()
        is _native.zstd_decoder()
        is _native.blosc()
        is _native.lz4()
        is _native.deflate()
        is None
    )


# -- one buffer into another, again and again ------------------------------------------------------

REPEATING = [ZstdCodec(1), ZstdCodec(3, checksum=True), BloscCodec(4, "lz4"), BloscCodec(4, "zstd")]


@needs_library
@pytest.mark.parametrize("codec", REPEATING, ids=str)
def test_a_decoder_does_what_decode_does_or_says_no(codec):
    size = Size(len(FIELD))
    stored = memoryview(bytearray(codec.encoded_size(size).limit))
    guard = 64
    out = memoryview(bytearray(b"\xa5" * (3 * len(FIELD) + guard)))[: 3 * len(FIELD)]
    decode = codec.decoder(stored, out, size)
    good = bytes(codec.encode(FIELD))
    for data in (good, *mutants(good), good[:-1], good[:5], b"", good + b"!" * 30):
        if len(data) > len(stored):
            continue
        stored[: len(data)] = data
        out[:] = b"\xa5" * len(out)
        try:
            expected = bytes(codec.decode(data, size))
        except CodecError:
            expected = None
        done = decode(len(data), len(FIELD))
        assert not done or bytes(out[len(FIELD) : -len(FIELD)]) == expected
        assert done or data is not good
        assert set(out[: len(FIELD)]) == set(out[-len(FIELD) :]) == {0xA5}
    for at in (-1, 2 * len(FIELD) + 1):
        stored[: len(good)] = good
        assert not decode(len(good), at)


@needs_library
@pytest.mark.parametrize("codec", REPEATING, ids=str)
def test_there_is_no_decoder_for_sizes_that_are_not_known(codec, monkeypatch):
    buffers = memoryview(bytearray(100)), memoryview(bytearray(100))
    assert codec.decoder(*buffers, Size(100, exact=False)) is None
    assert codec.decoder(*buffers, Size(100)) is not None
    monkeypatch.setattr(_native, "ENABLED", False)
    assert codec.decoder(*buffers, Size(100)) is None
