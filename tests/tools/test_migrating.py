"""``migrate`` writes what ``zarr migrate v3`` writes, and chunks stay readable."""

import shutil
import warnings

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.metadata.migrate_v3 import migrate_v2_to_v3

import zarr_gpu
from zarr_gpu.errors import ContainsNodeError, MetadataError, UnsupportedError
from zarr_gpu.tools.migrating import migrate, remove_metadata

pytestmark = pytest.mark.peer
STRUCT = np.dtype([("a", "<i4"), ("b", "<f8")])
CASES = [
    *({"dtype": t} for t in "<f4 >f4 |b1 |u1 <i8 >i2 <c16 <f2 <M8[s] |S5 <U3 >U3 |V4".split()),
    {"dtype": STRUCT},
    {"dtype": "<f8", "order": "F"},
    {"dtype": "<f8", "fill_value": np.nan},
    {"dtype": "<f8", "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    {"dtype": "<f8", "attributes": {"a": [1, {"b": None}]}},
    *(
        {"dtype": "<i4", "compressors": c}
        for c in (
            numcodecs.Blosc(),
            numcodecs.Blosc("zstd", 9, 2, 1 << 16),
            numcodecs.Zstd(3, checksum=True),
            numcodecs.GZip(4),
            numcodecs.Zlib(3),
            numcodecs.LZ4(),
            numcodecs.BZ2(),
            numcodecs.LZMA(),
            numcodecs.CRC32(),
            numcodecs.CRC32C(),
            numcodecs.Adler32(),
            numcodecs.Fletcher32(),
            numcodecs.Shuffle(4),
        )
    ),
    {"dtype": "<i4", "filters": [numcodecs.Delta("<i4")]},
    {"dtype": "<f8", "filters": [numcodecs.FixedScaleOffset(0, 10, "<f8", "<i2")]},
    {"dtype": "<f8", "filters": [numcodecs.Quantize(3, "<f8")]},
    {"dtype": "<f8", "filters": [numcodecs.AsType("<f4", "<f8")]},
    {"dtype": "|b1", "filters": [numcodecs.PackBits()]},
]


def written(path, case):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # types and codecs that zarr-python calls unstable
        array = zarr.create_array(
            path, shape=(5, 6), chunks=(2, 3), zarr_format=2, **{"compressors": None, **case}
        )
        rng = np.random.default_rng(0)
        dtype = array.dtype
        if dtype.kind in "SUb":
            values = rng.integers(0, 2, (5, 6)).astype(dtype)
        elif dtype.kind == "f":
            values = rng.integers(0, 50, (5, 6)).astype(dtype)
        else:
            values = rng.integers(0, 99, 30 * dtype.itemsize, np.uint8).view(dtype).reshape(5, 6)
        array[...] = values
    return values


@pytest.mark.parametrize("case", CASES, ids=str)
def test_documents_are_those_of_zarr_python(case, tmp_path):
    values = written(tmp_path / "theirs", case)
    if values.dtype.names and not hasattr(zarr.dtype, "Struct"):
        pytest.skip("this zarr-python writes struct types under their old name")
    shutil.copytree(tmp_path / "theirs", tmp_path / "ours")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            migrate_v2_to_v3(input_store=zarr.storage.LocalStore(tmp_path / "theirs"))
        except (TypeError, ValueError) as error:
            pytest.fail(f"zarr-python cannot migrate this: {error}")
    assert migrate(tmp_path / "ours") == ["zarr.json"]
    assert (tmp_path / "ours/zarr.json").read_bytes() == (
        tmp_path / "theirs/zarr.json"
    ).read_bytes()
    remove_metadata(tmp_path / "ours", 2)
    found = zarr_gpu.open_array(tmp_path / "ours", mode="r", zarr_format=3)[...]
    assert found.astype(values.dtype).tobytes() == values.tobytes()


@pytest.fixture
def old(tmp_path):
    root = zarr_gpu.open_group(tmp_path / "old", mode="w", zarr_format=2, attributes={"n": 1})
    root.create_array("x/y", data=np.arange(10), chunks=(4,))
    return tmp_path / "old"


def files(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_hierarchies(old, tmp_path):
    shutil.copytree(old, tmp_path / "theirs")
    before = files(old)
    assert sorted(migrate(old, dry_run=True)) == ["x/y/zarr.json", "x/zarr.json", "zarr.json"]
    assert files(old) == before
    migrate(old)
    migrate_v2_to_v3(input_store=zarr.storage.LocalStore(tmp_path / "theirs"))
    assert files(old) == files(tmp_path / "theirs")
    with pytest.raises(ContainsNodeError, match="--overwrite"):
        migrate(old)
    migrate(old, overwrite=True, remove_v2_metadata=True)
    assert not [name for name in files(old) if ".z" in name]
    root = zarr.open_group(old, mode="r")
    assert root.metadata.zarr_format == 3
    assert root.attrs["n"] == 1
    np.testing.assert_array_equal(root["x/y"][...], np.arange(10))


def test_into_another_store(old, tmp_path):
    before = files(old)
    migrate(old, tmp_path / "new")
    assert files(old) == before
    assert sorted(files(tmp_path / "new")) == ["x/y/zarr.json", "x/zarr.json", "zarr.json"]


def test_consolidated_metadata_are_consolidated_again(old):
    zarr_gpu.consolidate_metadata(old)
    migrate(old, remove_v2_metadata=True)
    root = zarr.open_group(old, mode="r", use_consolidated=True)
    np.testing.assert_array_equal(root["x/y"][...], np.arange(10))


def test_strings_of_any_length(tmp_path):
    zarr_gpu.create_array(tmp_path / "s", shape=(2,), dtype=str, zarr_format=2)[...] = ["a", "bcd"]
    migrate(tmp_path / "s", remove_v2_metadata=True)
    assert zarr.open_array(tmp_path / "s", mode="r")[...].tolist() == ["a", "bcd"]


def test_what_cannot_be_migrated_changes_nothing(old):
    zarr_gpu.open_group(old).create_array(
        "z", shape=(4,), dtype="i4", filters=[{"id": "shuffle", "elementsize": 4}]
    )
    before = files(old)
    with pytest.raises(UnsupportedError, match=r"'z'.*filter 'shuffle'"):
        migrate(old)
    assert files(old) == before


def test_the_only_metadata_are_not_removed_without_force(old):
    with pytest.raises(MetadataError, match="--force"):
        remove_metadata(old, 2)
    assert ".zgroup" in files(old)
    assert remove_metadata(old, 2, force=True, dry_run=True)[-1] == ".zgroup"
    remove_metadata(old, 2, force=True)
    assert not [name for name in files(old) if ".z" in name]


def test_an_interrupted_migration_is_finished_by_the_same_command(old):
    zarr_gpu.consolidate_metadata(old)
    whole = files(old)
    migrate(old, remove_v2_metadata=True)
    expected = files(old)
    for name, data in whole.items():  # as if it had been killed between the two
        (old / name).write_bytes(data)
    (old / "x/zarr.json").unlink()
    migrate(old, remove_v2_metadata=True)
    assert files(old) == expected


def test_a_zip_file_is_migrated_in_a_copy(old, tmp_path):
    from zarr_gpu.tools.copying import copy

    copy(old, tmp_path / "a.zip")
    before = (tmp_path / "a.zip").read_bytes()
    with pytest.raises(UnsupportedError, match="cannot delete"):
        migrate(tmp_path / "a.zip", remove_v2_metadata=True)
    assert (tmp_path / "a.zip").read_bytes() == before
    migrate(tmp_path / "a.zip")
    root = zarr_gpu.open_group(tmp_path / "a.zip", mode="r", zarr_format=3)
    np.testing.assert_array_equal(root["x/y"][...], np.arange(10))
    migrate(old, tmp_path / "new.zip")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "new.zip", "old"]


def test_documents_of_somebody_else_are_not_replaced(old):
    migrate(old)
    (old / "x/zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    (old / "zarr.json").unlink()
    before = files(old)
    with pytest.raises(ContainsNodeError, match=r"'x/zarr\.json'.*--overwrite"):
        migrate(old)
    assert files(old) == before
