"""Names of nodes: the path of a node inside its hierarchy.

>>> check_node_path("/a//b/")
'a/b'
"""

from __future__ import annotations

from zarr_gpu.errors import StoreKeyError

DOCUMENTS = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
"""Names of metadata documents, v3 and v2."""


def check_node_path(path: str, *, strict: bool = False) -> str:
    """``path`` without leading, trailing and doubled slashes; "" is the root.

    Raises StoreKeyError for names the specification forbids ("Node names"): made of dots only, or
    with a backslash or NUL, which some stores cannot hold. ``strict``, for new nodes, also refuses
    the reserved names: those that begin with ``__`` and those of metadata documents.
    """
    names = [name for name in path.split("/") if name]
    for name in names:
        if not name.strip("."):
            raise StoreKeyError(f"illegal node path {path!r}: {name!r} is made of dots only")
        if "\\" in name or "\0" in name:
            raise StoreKeyError(f"illegal node path {path!r}: {name!r} has a backslash or NUL")
        if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
            raise StoreKeyError(f"illegal node path {path!r}: not encodable in UTF-8")
        if strict and (name.startswith("__") or name in DOCUMENTS):
            raise StoreKeyError(f"illegal node path {path!r}: the name {name!r} is reserved")
    return "/".join(names)


def is_node_name(name: str) -> bool:
    """True for what may be the last part of a node's path."""
    try:
        return "/" not in name and check_node_path(name) == name != ""
    except StoreKeyError:
        return False
