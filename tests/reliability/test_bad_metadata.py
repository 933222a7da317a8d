"""Documents broken in every member are refused by naming them, or mean something legal."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import zarr_gpu
from tests.reliability.memory import Peak
from zarr_gpu.errors import MetadataError, NodeNotFoundError, ZarrGpuError

SPARE = 64 << 20
SHARDED: dict[str, Any] = {"chunks": (4, 3), "shards": (8, 6)}
DATA = np.arange(160, dtype="i4").reshape(16, 10) + 1
REPLACEMENTS: list[Any] = [
    None, True, 0, -1, 1, 3, 7, 2**31, 2**62, 2**63, 2**64, 10**19, 0.5, 1e300, float("nan"),
    float("inf"), "", "x", "../..", "\x00", "9" * 30, [], [[]], [0], [-1], [1], [2**62, 2**62],
    [None], ["a"], [1] * 65, {}, {"name": "bytes"}, {"name": "x"}, {"id": "pickle"}, {"a": {}},
    [{"name": "crc32c"}] * 17, [{"name": "bytes", "configuration": {"endian": "middle"}}],
]  # fmt: skip


def documents() -> dict[str, tuple[dict[str, bytes], str]]:
    """Stores with one array each, and the key of its document."""
    found = {}
    for name, zarr_format, more in [
        ("v3", 3, {"chunks": (4, 3)}),
        ("v3 shards", 3, SHARDED),
        ("v2", 2, {"chunks": (4, 3), "filters": [{"id": "delta", "dtype": "<i4"}]}),
    ]:
        store: dict[str, bytes] = {}
        array = zarr_gpu.create_array(
            store, shape=DATA.shape, dtype="i4", fill_value=-7, zarr_format=zarr_format, **more
        )
        array[...] = DATA
        found[name] = (store, "zarr.json" if zarr_format == 3 else ".zarray")
    return found


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every member, at every depth."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for name, member in items:
        yield (*path, name)
        yield from places(member, (*path, name))


def changed(document: Any, path: tuple[Any, ...], value: Any = ...) -> Any:
    """The document with one member replaced, or taken out."""
    document = copy.deepcopy(document)
    here = document
    for name in path[:-1]:
        here = here[name]
    if value is ...:
        del here[path[-1]]
    else:
        here[path[-1]] = value
    return document


def attempt(store: dict[str, bytes], what: str) -> str:
    """Open and read some; the name of the error, or "" when it went well."""
    message = ""
    with Peak() as peak:
        try:
            array = zarr_gpu.open_array(store, mode="r")
            assert len(repr(array)) + len(str(array.info)) < 10_000, what
            some = tuple(slice(0, 5) for _ in array.shape)
            result = array[some]
            assert np.shape(result) == tuple(min(5, n) for n in array.shape), what
            error = ""
        except ZarrGpuError as raised:
            message, error = str(raised), type(raised).__name__
    assert len(message) < 5_000, what
    assert peak.nbytes < SPARE, f"{what}: {peak.nbytes} bytes"
    return error


@pytest.mark.parametrize("name", documents())
@pytest.mark.filterwarnings("ignore::UserWarning")  # members outside the specification
def test_any_member_replaced_by_anything(name: str) -> None:
    store, key = documents()[name]
    document = json.loads(store[key])
    refused = accepted = 0
    for path in places(document):
        for value in REPLACEMENTS:
            bad = changed(document, path, value)
            what = f"{path} = {value!r}"
            if attempt({**store, key: json.dumps(bad).encode()}, what):
                refused += 1
            else:
                accepted += 1
    assert refused > 5 * accepted


@pytest.mark.parametrize("name", documents())
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_any_member_missing(name: str) -> None:
    store, key = documents()[name]
    document = json.loads(store[key])
    optional = {
        "attributes", "storage_transformers", "index_location", "separator", "checksum",
        "dimension_separator", "index_codecs", "configuration", "chunk_key_encoding", "level",
        "astype",
    }  # fmt: skip
    if name == "v2":
        optional |= {"fill_value", "order", "filters"}
    for path in places(document):
        error = attempt({**store, key: json.dumps(changed(document, path)).encode()}, str(path))
        if path[-1] not in optional and not isinstance(path[-1], int):
            assert error, f"{path} may be missing"


@pytest.mark.parametrize("name", documents())
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_documents_cut_short_and_damaged(name: str) -> None:
    store, key = documents()[name]
    good = store[key]
    rng = random.Random(3)
    for n in {*range(0, len(good), 7), *range(len(good) - 5, len(good))}:
        assert attempt({**store, key: good[:n]}, f"cut to {n}") == "MetadataError"
    for _ in range(300):
        bad = bytearray(good)
        for _ in range(rng.choice((1, 2, 5))):
            bad[rng.randrange(len(bad))] = rng.choice((0, 9, 34, 44, 48, 57, 91, 93, 125, 255))
        attempt({**store, key: bytes(bad)}, bytes(bad).decode("latin-1"))


@pytest.mark.parametrize(
    "document",
    [
        b"", b"\x00", b"null", b"[]", b"1", b'"x"', b"{}", b"{", b"\xff\xfe{\x00}\x00",
        b'\xef\xbb\xbf{"zarr_format": 3}', b'{"a": 1, "a": 2}', b"[" * 100_000, b'{"a":' * 100_000,
        b'{"zarr_format": ' + b"9" * 100_000 + b"}", b'{"zarr_format": 1e999}',
        b'{"zarr_format": 4, "node_type": "array"}', b'{"zarr_format": 3, "node_type": "x"}',
        b'{"zarr_format": 3, "node_type": "group", "consolidated_metadata": {"metadata": 1}}',
        b'{"zarr_format": 3, "node_type": "\\ud800"}', b'{"zarr_format": 3}' + b" " * (17 << 20),
    ],
    ids=lambda d: f"{d[-30:].decode('latin-1')}-{len(d)}",
)  # fmt: skip
@pytest.mark.parametrize("key", ["zarr.json", ".zarray", ".zgroup"])
def test_documents_that_are_none(document: bytes, key: str) -> None:
    store = {key: document}
    with Peak() as peak, pytest.raises(ZarrGpuError):
        zarr_gpu.open_array(store, mode="r")
    assert peak.nbytes < SPARE
    store = {key: document}
    with pytest.raises(ZarrGpuError):
        zarr_gpu.open(store, mode="r", zarr_format=3 if key == "zarr.json" else 2)


def test_a_broken_member_of_a_group_is_that_member_s_error_alone() -> None:
    store: dict[str, bytes] = {}
    group = zarr_gpu.create_group(store)
    group.create_array("good", data=DATA, chunks=(4, 4))
    group.create_array("bad", data=DATA, chunks=(4, 4))
    store["bad/zarr.json"] = store["bad/zarr.json"].replace(b"int32", b"int33")
    group = zarr_gpu.open_group(store, mode="r")
    np.testing.assert_array_equal(group["good"][...], DATA)
    with pytest.raises(MetadataError, match=r"bad/zarr\.json"):
        group["bad"]


@pytest.mark.parametrize("path", ["../a", "a/../../b", "..", "a/..", "/../a", "a\\..\\b", "a\0b"])
def test_paths_with_dots_are_refused(path: str) -> None:
    store: dict[str, bytes] = {}
    zarr_gpu.create_group(store)["a"] = DATA
    for call in (
        lambda: zarr_gpu.open_array(store, path=path, mode="r"),
        lambda: zarr_gpu.open_group(store, mode="r")[path],
        lambda: zarr_gpu.create_array(store, name=path, data=DATA),
        lambda: zarr_gpu.open_group(store, mode="r+").create_group(path),
    ):
        with pytest.raises((ZarrGpuError, KeyError)) as caught:
            call()
        assert not isinstance(caught.value, NodeNotFoundError)


@pytest.mark.filterwarnings("ignore:member .* is left out:UserWarning")
@pytest.mark.parametrize("member", ["../a", "/a", "a/../b", "", "..", "a\\b"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_paths_with_dots_in_consolidated_metadata_lead_nowhere(
    member: str, zarr_format: int
) -> None:
    store: dict[str, bytes] = {}
    group = zarr_gpu.create_group(store, zarr_format=zarr_format)
    group.create_array("inside", data=DATA, chunks=(4, 4))
    zarr_gpu.consolidate_metadata(store)
    key = "zarr.json" if zarr_format == 3 else ".zmetadata"
    store[key] = store[key].replace(b'"inside', b'"' + member.replace("\\", "\\\\").encode())
    try:
        group = zarr_gpu.open_group(store, mode="r")
        for name in list(group):
            assert name not in ("..", "", ".")
            group[name]
        list(group.members(max_depth=None))
    except (ZarrGpuError, KeyError):
        pass


@pytest.mark.parametrize("codec", [{"id": "pickle"}, {"id": "pickle", "protocol": 2}])
def test_pickles_are_not_loaded(codec: dict[str, Any], tmp_path: Any) -> None:
    import pickle

    class Trap:
        def __reduce__(self) -> Any:
            return open, (str(tmp_path / "sprung"), "w")

    good: dict[str, bytes] = {}
    zarr_gpu.create_array(
        good, shape=(4,), chunks=(4,), dtype=object, zarr_format=2, filters=[{"id": "json2"}]
    )
    document = json.loads(good[".zarray"])
    for filters, compressor in (
        ([codec], None),
        ([{"id": "json2"}, codec], None),
        ([{"id": "vlen-utf8"}, codec], None),
        ([codec, {"id": "zlib", "level": 1}], None),
        (None, codec),
    ):
        bad = {**document, "filters": filters, "compressor": compressor}
        store = {".zarray": json.dumps(bad).encode(), "0": pickle.dumps(Trap())}
        with pytest.raises(ZarrGpuError):
            zarr_gpu.open_array(store, mode="r")[...]
        assert not (tmp_path / "sprung").exists()
    for name in ("pickle", "numcodecs.pickle"):
        members: dict[str, bytes] = {}
        zarr_gpu.create_array(members, shape=(4,), chunks=(4,), dtype="i4", compressors=None)
        v3 = json.loads(members["zarr.json"])
        v3["codecs"] = [{"name": name}]
        store = {"zarr.json": json.dumps(v3).encode(), "c/0": pickle.dumps(Trap())}
        with pytest.raises(ZarrGpuError):
            zarr_gpu.open_array(store, mode="r")[...]
        assert not (tmp_path / "sprung").exists()
