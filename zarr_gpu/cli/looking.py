# ruff: noqa: T201 - a command prints
"""``zarr-gpu info``, ``tree`` and ``ls``: what is there, how it is stored, and what a read does."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from zarr_gpu.cli import common
from zarr_gpu.cli.progress import size

if TYPE_CHECKING:
    from zarr_gpu.array import Array
    from zarr_gpu.cli.main import Subparsers
    from zarr_gpu.group import Group


def add_parsers(subparsers: Subparsers) -> None:
    """Declare the commands."""
    info = common.command(
        subparsers,
        "info",
        _info,
        "shape, type, codecs and sizes of an array or group, and what reading it does where",
        """
        zarr-gpu info survey.zarr
        zarr-gpu info survey.zarr/depth --device cpu
        zarr-gpu info survey.zarr/depth -s 0:10,:5
        zarr-gpu info survey.zarr --json
        """,
    )
    common.add_place(info)
    info.add_argument("-s", "--select", metavar="SELECTION", default="...", help="of the read")
    info.add_argument("--device", help="auto (default), cpu, cuda or cuda:N")
    info.add_argument(
        "--no-sizes", action="store_true", help="do not list the store to add up what is stored"
    )
    common.add_common(info)
    tree = common.command(
        subparsers,
        "tree",
        _tree,
        "draw a hierarchy",
        """
        zarr-gpu tree survey.zarr
        zarr-gpu tree survey.zarr --level 1
        """,
    )
    common.add_place(tree)
    tree.add_argument("-L", "--level", type=int, help="how deep to go")
    tree.add_argument("--max-nodes", type=int, default=1000, help="stop after (default 1000)")
    common.add_common(tree)
    ls = common.command(
        subparsers,
        "ls",
        _ls,
        "list members of a group, or stored objects",
        """
        zarr-gpu ls survey.zarr
        zarr-gpu ls -l --recursive survey.zarr
        zarr-gpu ls -l --keys survey.zarr/depth
        """,
    )
    common.add_place(ls)
    ls.add_argument("-l", "--long", action="store_true", help="types, shapes and stored sizes")
    ls.add_argument("-R", "--recursive", action="store_true", help="all levels")
    ls.add_argument("-k", "--keys", action="store_true", help="stored objects instead of nodes")
    common.add_common(ls)


# -- info -----------------------------------------------------------------------------------------


def _info(args: argparse.Namespace) -> int:
    from zarr_gpu.array import Array

    node = common.open_place(args, args.path, device=args.device)
    document = (
        _array_document(args, node) if isinstance(node, Array) else _group_document(args, node)
    )
    if args.json:
        common.print_json(document)
        return common.OK
    for label, value in _rows(document):
        print(f"{label:<18} {value}")
    if isinstance(node, Array):
        print("\nreading " + args.select)
        for line in document["read"]:
            print(f"  {line}")
    return common.OK


def _array_document(args: argparse.Namespace, array: Array) -> dict[str, Any]:
    from zarr_gpu.cli.selections import parse_selection
    from zarr_gpu.errors import UnsupportedError

    metadata = array.metadata
    out: dict[str, Any] = {
        "node_type": "array",
        "zarr_format": metadata.zarr_format,
        "store": repr(array.store),
        "path": array.path,
        "shape": list(array.shape),
        "dimension_names": _names(array),
        "data_type": metadata.data_type.name,
        "dtype": str(array.dtype),
        "fill_value": _json_fill(array),
    }
    for name in ("chunks", "shards"):
        try:
            out[name] = getattr(array, name)
        except UnsupportedError:
            sizes = array.read_chunk_sizes if name == "chunks" else array.write_chunk_sizes
            out[name] = [list(lengths) for lengths in sizes]
    out |= {
        "order": array.order,
        "codecs": [_codec(c) for c in _chain(array)],
        "chunk_key_encoding": metadata.chunk_key_encoding.to_json(),
        "attributes": dict(metadata.attributes),
        "nbytes": array.nbytes,
        "nchunks": array.nchunks,
    }
    if not args.no_sizes and array.store.supports_listing:
        stored = array.nbytes_stored()
        chunks = array.nchunks_initialized
        out |= {
            "nbytes_stored": stored,
            "ratio": round(array.nbytes / stored, 3) if stored else None,
            "nchunks_stored": chunks,
            "nchunks_missing": array.nchunks - chunks,
        }
    selection = parse_selection(args.select)
    out["device"] = array.device
    out["read"] = array.explain(selection if len(selection) != 1 else selection[0]).splitlines()
    return out


def _names(array: Array) -> Any:
    names = array.metadata.dimension_names
    return names if names is not None else array.metadata.attributes.get("_ARRAY_DIMENSIONS")


def _json_fill(array: Array) -> Any:
    fill = array.fill_value
    if fill is None:
        return None
    return array.metadata.data_type.fill_to_json(fill, array.metadata.zarr_format)


def _chain(array: Array) -> list[Any]:
    if array.metadata.v2 is not None:
        return [*array.filters, *array.compressors]
    return [*array.filters, array.serializer, *array.compressors]


def _codec(codec: Any) -> Any:
    return codec.to_dict() if hasattr(codec, "to_dict") else codec


def _group_document(args: argparse.Namespace, group: Group) -> dict[str, Any]:
    arrays = groups = nbytes = 0
    for _, node in group.members(max_depth=None):
        if hasattr(node, "members"):
            groups += 1
        else:
            arrays += 1
            nbytes += node.nbytes
    out: dict[str, Any] = {
        "node_type": "group",
        "zarr_format": group.metadata.zarr_format,
        "store": repr(group.store),
        "path": group.path,
        "attributes": dict(group.metadata.attributes),
        "consolidated": group.metadata.consolidated is not None,
        "arrays": arrays,
        "groups": groups,
        "nbytes": nbytes,
    }
    if not args.no_sizes and group.store.supports_listing:
        from zarr_gpu.info import nbytes_stored

        stored = nbytes_stored(group.store, group.path)
        out |= {"nbytes_stored": stored, "ratio": round(nbytes / stored, 3) if stored else None}
    return out


def _rows(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in document.items():
        if name in ("read", "attributes") or value is None:
            continue
        label = name.replace("_", " ")
        if name in ("nbytes", "nbytes_stored"):
            yield label, f"{value:,} ({size(value)})"
        elif name == "codecs":
            for i, codec in enumerate(value):
                yield label if i == 0 else "", _codec_text(codec)
            if not value:
                yield label, "none"
        elif name in ("shape", "chunks", "shards"):
            yield label, _shape(value)
        elif isinstance(value, dict):
            yield label, json.dumps(value)
        elif isinstance(value, list | tuple):
            yield label, ", ".join(map(str, value))
        else:
            yield label, f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)
    for key, value in document["attributes"].items():
        text = json.dumps(value, default=str)
        yield f"@{key}", text if len(text) <= 100 else text[:97] + "..."


def _shape(shape: Any) -> str:
    if any(isinstance(n, list) for n in shape):
        return " x ".join(str(n) if len(str(n)) < 40 else f"{len(n)} parts" for n in shape)
    return " x ".join(map(str, shape)) or "scalar"


def _codec_text(codec: Any) -> str:
    name = codec.get("name") or codec.get("id")
    inner = codec.get("configuration", {k: v for k, v in codec.items() if k not in ("id", "name")})
    return f"{name} " + ", ".join(f"{k}={v}" for k, v in inner.items()) if inner else str(name)


# -- tree -----------------------------------------------------------------------------------------


def _tree(args: argparse.Namespace) -> int:
    from zarr_gpu.array import Array

    node = common.open_listed(args, args.path)
    if args.json:
        common.print_json(_nested(node, args.level))
    elif isinstance(node, Array):
        print(f"{args.path} {_shape(node.shape)} {node.metadata.data_type.name}")
    else:
        print(node.tree(level=args.level, max_nodes=args.max_nodes))
    return common.OK


def _nested(node: Any, level: int | None) -> dict[str, Any]:
    out = _summary(node)
    if hasattr(node, "members") and (level is None or level > 0):
        below = None if level is None else level - 1
        out["members"] = {name: _nested(child, below) for name, child in sorted(node.members())}
    return out


def _summary(node: Any) -> dict[str, Any]:
    if hasattr(node, "members"):
        return {"node_type": "group"}
    out = {"node_type": "array", "shape": list(node.shape), "dtype": node.metadata.data_type.name}
    return out | {"nbytes": node.nbytes}


# -- ls -------------------------------------------------------------------------------------------


def _ls(args: argparse.Namespace) -> int:
    from zarr_gpu.array import Array

    node = common.open_listed(args, args.path)
    if args.keys or isinstance(node, Array):
        rows = _keys(node, recursive=args.recursive or isinstance(node, Array))
        table = rows if args.json or args.long else ({"key": row["key"]} for row in rows)
    else:
        members = node.members(max_depth=None) if args.recursive else node.members()
        table = (
            _member(name, child, sizes=args.long or args.json) for name, child in sorted(members)
        )
    if args.json:
        common.print_json(list(table))
        return common.OK
    for row in table:
        print(_line(row, long=args.long))
    return common.OK


def _keys(node: Any, *, recursive: bool) -> Iterator[dict[str, Any]]:
    """Objects below a node, sorted in each directory."""
    store, path = node.store, node.path
    skip = len(path) + 1 if path else 0
    if recursive:
        for key in sorted(store.list_prefix(path)):
            yield {"key": key[skip:], "nbytes": store.size(key)}
        return
    for name in store.list_dir(path):
        key = f"{path}/{name}" if path else name
        nbytes = store.size(key) if not _is_directory(store, key) else None
        yield {"key": name if nbytes is not None else name + "/", "nbytes": nbytes}


def _is_directory(store: Any, key: str) -> bool:
    return bool(store.list_dir(key))


def _member(name: str, node: Any, *, sizes: bool) -> dict[str, Any]:
    out = {"name": name, **_summary(node)}
    if sizes:
        from zarr_gpu.info import nbytes_stored

        out["nbytes_stored"] = nbytes_stored(node.store, node.path)
    return out


def _line(row: dict[str, Any], *, long: bool) -> str:
    name = row.get("key") or row["name"]
    if row.get("node_type") == "group":
        name += "/"
    if not long:
        return str(name)
    stored = row.get("nbytes_stored", row.get("nbytes"))
    text = f"{'-' if stored is None else size(stored):>10}"
    if "node_type" in row:
        shape = _shape(row["shape"]) if "shape" in row else ""
        text += f"  {row['node_type']:<5}  {row.get('dtype', ''):<10} {shape:<20}"
    return f"{text}  {name}"
