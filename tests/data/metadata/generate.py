"""Writes the two JSON files beside this one: documents by key, as zarr-python 3.4.2 stores them."""

import json
import warnings
from pathlib import Path

import numcodecs
import numpy as np
import zarr
from zarr.storage import MemoryStore

warnings.simplefilter("ignore")
zarr.config.set({"array.rectilinear_chunks": True})


def v3(store):
    attributes = {"a": 1, "nan": float("nan"), "ü": "é"}
    g = zarr.create_group(store, zarr_format=3, attributes=attributes)
    g.create_array("plain", shape=(10, 7), chunks=(4, 3), dtype="i4")
    g.create_array(
        "sharded",
        shape=(100, 64),
        chunks=(8, 8),
        shards=(32, 32),
        dtype="f4",
        fill_value=np.nan,
        dimension_names=["y", None],
        attributes={"units": "m", "nested": {"b": [1, 2.5, None, True]}},
    )
    g.create_array("zero", shape=(), dtype="bool", chunks=())
    g.create_array("text", shape=(3,), dtype=str, fill_value="x")
    g.create_array("complex", shape=(3,), dtype="c16", fill_value=1 + 2j)
    g.create_array("time", shape=(3,), dtype="M8[ns]")
    keys = {"name": "v2", "separator": "."}
    g.create_array("v2keys", shape=(3,), dtype="u1", chunk_key_encoding=keys)
    edges = [[3, 3, 3, 1], [5, 15], [10, 10, 10]]
    g.create_array("rect", shape=(10, 20, 30), dtype="i8", chunks=edges)
    g.create_array(
        "transposed",
        shape=(10, 20),
        dtype="i8",
        chunks=(5, 5),
        filters=[zarr.codecs.TransposeCodec(order=(1, 0))],
        compressors=[zarr.codecs.BloscCodec(), zarr.codecs.Crc32cCodec()],
    )
    g.create_group("sub").create_array("deep", shape=(2,), dtype="u2", chunks=(2,))


def v2(store):
    g = zarr.create_group(store, zarr_format=2, attributes={"a": 1})
    g.create_array("plain", shape=(10, 7), chunks=(4, 3), dtype="<i4", attributes={"x": [1]})
    g.create_array(
        "big",
        shape=(10, 7),
        chunks=(4, 3),
        dtype=">f8",
        order="F",
        fill_value=np.nan,
        compressors=None,
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )
    g.create_array("text", shape=(3,), dtype=str)
    g.create_array(
        "filters",
        shape=(3,),
        dtype="<i8",
        filters=[numcodecs.Delta(dtype="<i8")],
        compressors=numcodecs.Zstd(level=3),
    )
    g.create_array("struct", shape=(3,), dtype=[("a", "<i2"), ("b", "<f4")])
    g.create_array("bytes", shape=(3,), dtype="S5")
    zarr.create_array(store, name="null", shape=(3,), dtype="f4", fill_value=None, zarr_format=2)
    g.create_group("sub").create_array("deep", shape=(2,), dtype="u2", chunks=(2,))


for name, fill in (("v3", v3), ("v2", v2)):
    stored = {}
    fill(MemoryStore(stored))
    zarr.consolidate_metadata(MemoryStore(stored))
    documents = {key: value.to_bytes().decode() for key, value in stored.items()}
    path = Path(__file__).with_name(f"zarr_python_{name}.json")
    path.write_text(json.dumps(documents, indent=1, sort_keys=True))
