"""What a group is, and the metadata of its members where they are consolidated.

Consolidated metadata list every node below a group in one document: inside ``zarr.json`` (v3, core
specification, "Additional fields") or in ``.zmetadata`` (v2, format 1). One member that does not
parse never makes the group unreadable: it is kept as the error that opening it shall raise, and
written back as it was.

>>> group = GroupMetadata(zarr_format=3, attributes={"title": "x"})
>>> group.documents(None)
{'zarr.json': b'{"attributes": {"title": "x"}, "zarr_format": 3, "node_type": "group"}'}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from zarr_gpu._types import JSON
from zarr_gpu.errors import MetadataError, MissingDependencyError, Problem, StoreKeyError
from zarr_gpu.metadata import json
from zarr_gpu.metadata.array import ArrayMetadata
from zarr_gpu.metadata.members import check_constant, parse_attributes, parse_extra
from zarr_gpu.metadata.paths import check_node_path
from zarr_gpu.metadata.problems import Problems, show
from zarr_gpu.metadata.v2 import parse_array_v2
from zarr_gpu.metadata.v3 import parse_array_v3

V3_MEMBERS = frozenset({"zarr_format", "node_type", "attributes", "consolidated_metadata"})


class MemberError(MetadataError):
    """A consolidated member that cannot be read; ``raw`` is its JSON.

    In v2 that is an object with the member's documents by file name.
    """

    def __init__(
        self, problems: Sequence[Problem] | str, *, document: str = "", raw: JSON = None
    ) -> None:
        super().__init__(problems, document=document)
        self.raw = raw


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupMetadata:
    """The metadata of one group.

    ``consolidated`` maps paths relative to the group, however deep, to nodes, or is None when the
    metadata are not consolidated; groups in it have None themselves. Two are equal when their
    documents say the same.
    """

    zarr_format: Literal[2, 3]
    attributes: Mapping[str, JSON] = field(default_factory=dict)
    consolidated: Mapping[str, Node | MetadataError] | None = None
    extra: Mapping[str, JSON] = field(default_factory=dict)

    def to_dict(self) -> dict[str, JSON]:
        """The object of ``zarr.json`` or ``.zgroup``, members in the order of zarr-python."""
        if self.zarr_format == 2:
            return {"zarr_format": 2, **self.extra}
        out: dict[str, JSON] = {"attributes": self.attributes, "zarr_format": 3}
        if self.consolidated is not None:
            members = {p: _member_v3(self.consolidated[p]) for p in _in_order(self.consolidated)}
            out["consolidated_metadata"] = _inline(members)
        return {**out, "node_type": "group", **self.extra}

    def documents(self, indent: int | None) -> dict[str, bytes]:
        """Content of each metadata file by name, as zarr-python lays it out.

        Raises TypeError where attributes hold what JSON cannot.
        """
        main = json.dump(self.to_dict(), indent)
        if self.zarr_format == 3:
            return {"zarr.json": main}
        out = {".zgroup": main, ".zattrs": json.dump(self.attributes, indent)}
        if self.consolidated is not None:
            root = replace(self, consolidated=None)
            out[".zmetadata"] = dump_consolidated_v2({**self.consolidated, "": root})
        return out

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GroupMetadata):
            return NotImplemented
        return self._canonical() == other._canonical()

    def __hash__(self) -> int:
        return hash(self._canonical())

    def _canonical(self) -> bytes:
        members = {**self.to_dict(), "attributes": self.attributes}
        if self.zarr_format == 2 and self.consolidated is not None:
            members["consolidated_metadata"] = _documents_v2(self.consolidated)
        return json.dump(members, None, sort_keys=True)


Node: TypeAlias = ArrayMetadata | GroupMetadata


def parse_node_v3(doc: Mapping[str, Any], document: str) -> Node:
    """Parse the object of a ``zarr.json``, an array's or a group's, by its ``node_type``.

    ``document`` is its key, for messages. Raises MetadataError listing every problem.
    """
    node_type = doc.get("node_type", ...)
    if node_type == "array":
        return parse_array_v3(doc, document)
    if node_type == "group":
        return parse_group_v3(doc, document)
    problems = Problems()
    if problems.member(doc, "node_type") is not ...:
        problems.add(("node_type",), f"expected 'array' or 'group', found {show(node_type)}")
    raise MetadataError(problems.found, document=document)


def parse_group_v3(doc: Mapping[str, Any], document: str) -> GroupMetadata:
    """Parse the object of a group's ``zarr.json``; raises MetadataError listing every problem."""
    problems = Problems()
    check_constant(doc, "zarr_format", 3, problems)
    check_constant(doc, "node_type", "group", problems)
    attributes = parse_attributes(doc.get("attributes"), problems)
    extra = parse_extra(doc, V3_MEMBERS, problems)
    consolidated = None
    listing = doc.get("consolidated_metadata")
    if isinstance(listing, Mapping) and listing.get("kind") == "inline":
        consolidated = _parse_inline(listing, document, problems)
    elif listing is not None:  # of a kind to come, or an error
        extra |= parse_extra({"consolidated_metadata": listing}, frozenset(), problems)
    problems.raise_if_any(document)
    return GroupMetadata(
        zarr_format=3, attributes=attributes, consolidated=consolidated, extra=extra
    )


def parse_group_v2(
    zgroup: Mapping[str, Any], zattrs: Mapping[str, Any] | None, document: str
) -> GroupMetadata:
    """Parse the objects of a ``.zgroup`` and of the ``.zattrs`` beside it (None: no such file).

    ``document`` is the key of the former, for messages. Raises MetadataError listing every
    problem.
    """
    problems = Problems()
    check_constant(zgroup, "zarr_format", 2, problems)
    attributes = parse_attributes(zattrs, problems)
    problems.raise_if_any(document)
    # zarr-python 3 puts an empty listing into the .zgroup of consolidated groups
    known = {"zarr_format", "consolidated_metadata"}
    extra = {name: value for name, value in zgroup.items() if name not in known}
    return GroupMetadata(zarr_format=2, attributes=attributes, extra=extra)


def parse_consolidated_v2(
    doc: Mapping[str, Any], document: str = ".zmetadata"
) -> dict[str, Node | MetadataError]:
    """Nodes by path from the object of a ``.zmetadata``; "" is the group it belongs to.

    Raises MetadataError when the document itself, not only a member, is invalid.
    """
    problems = Problems()
    check_constant(doc, "zarr_consolidated_format", 1, problems)
    listing = problems.member(doc, "metadata")
    if listing is not ... and not isinstance(listing, Mapping):
        problems.wrong_type(("metadata",), "an object", listing)
    problems.raise_if_any(document)
    files: dict[str, dict[str, Any]] = {}
    for key, value in listing.items():
        path, _, name = key.rpartition("/")
        files.setdefault(path, {})[name] = value
    return {
        path: _member(path, raw, f"{document}[{path}]", _parse_member_v2)
        for path, raw in files.items()
        if ".zarray" in raw or ".zgroup" in raw
    }


def dump_consolidated_v2(nodes: Mapping[str, Node | MetadataError]) -> bytes:
    """A ``.zmetadata`` listing ``nodes`` by path ("" is the group it belongs to).

    Raises the error of a member that was not read from a consolidated document.
    """
    out = {"metadata": _documents_v2(nodes), "zarr_consolidated_format": 1}
    return json.dump(out, None)


def _documents_v2(nodes: Mapping[str, Node | MetadataError]) -> dict[str, JSON]:
    out: dict[str, JSON] = {}
    for path in _in_order(nodes):
        node = nodes[path]
        files: Any
        if isinstance(node, MetadataError):
            files = _raw(node)
        elif isinstance(node, ArrayMetadata):
            files = {".zattrs": node.attributes, ".zarray": node.to_dict()}
        elif path:
            listing = {"metadata": {}, "must_understand": False, "kind": "inline"}
            zgroup = {"zarr_format": 2, "consolidated_metadata": listing, **node.extra}
            files = {".zattrs": node.attributes, ".zgroup": zgroup}
        else:
            files = {".zgroup": node.to_dict(), ".zattrs": node.attributes}
        out |= {f"{path}/{name}" if path else name: value for name, value in files.items()}
    return out


def _parse_inline(
    listing: Mapping[str, Any], document: str, problems: Problems
) -> dict[str, Node | MetadataError] | None:
    loc = ("consolidated_metadata",)
    members = problems.member(listing, "metadata", loc)
    if members is ...:
        return None
    if not isinstance(members, Mapping):
        problems.wrong_type((*loc, "metadata"), "an object", members)
        return None
    return {
        path: _member(path, raw, f"{document}[{path}]", _parse_member_v3)
        for path, raw in members.items()
        if path
    }


def _member(
    path: str, raw: Any, document: str, parse: Callable[[Any, str], Node]
) -> Node | MemberError:
    """The node, or what opening it shall raise."""
    try:
        if check_node_path(path) != path:
            raise StoreKeyError(f"illegal node path {path!r}: superfluous slashes")
        return parse(raw, document)
    except MetadataError as error:
        return MemberError(error.problems, document=document, raw=raw)
    except (StoreKeyError, MissingDependencyError) as error:
        return MemberError(str(error), document=document, raw=raw)


def _parse_member_v3(raw: Any, document: str) -> Node:
    # what a member says about its own members is stale: the outer listing has them all
    members = {n: v for n, v in _object(raw, document).items() if n != "consolidated_metadata"}
    return parse_node_v3(members, document)


def _parse_member_v2(raw: Mapping[str, Any], document: str) -> Node:
    zattrs = raw.get(".zattrs")
    if ".zarray" in raw:
        return parse_array_v2(_object(raw[".zarray"], document), zattrs, document)
    return parse_group_v2(_object(raw[".zgroup"], document), zattrs, document)


def _object(value: object, document: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        problems = Problems()
        problems.wrong_type((), "an object", value)
        raise MetadataError(problems.found, document=document)
    return value


def _member_v3(node: Node | MetadataError) -> JSON:
    if isinstance(node, MetadataError):
        return _raw(node)
    if isinstance(node, GroupMetadata):
        node = replace(node, consolidated={})  # as zarr-python marks "listed further out"
    return node.to_dict()


def _inline(members: Mapping[str, JSON]) -> dict[str, JSON]:
    return {"kind": "inline", "must_understand": False, "metadata": members}


def _raw(error: MetadataError) -> JSON:
    if isinstance(error, MemberError):
        return error.raw
    raise error


def _in_order(nodes: Mapping[str, object]) -> list[str]:
    """Paths in the order of zarr-python: by depth, then by name regardless of case."""
    import unicodedata  # slow to import

    def rank(path: str) -> tuple[int, str]:
        return path.count("/"), unicodedata.normalize("NFKC", path).casefold()

    return sorted(nodes, key=rank)
