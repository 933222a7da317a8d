# ruff: noqa: T201 - a command prints
"""What the subcommands share: arguments, where nodes are, exit statuses and output."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zarr_gpu.cli.progress import Bar

if TYPE_CHECKING:
    from zarr_gpu.array import Array
    from zarr_gpu.group import Group

OK, PROBLEMS, USAGE, NOT_FOUND, FAILED, EXISTS, UNAVAILABLE = range(7)
INTERRUPTED, CLOSED = 130, 141
STATUSES = """exit status:
  0    done
  1    the answer is no: damaged chunks, differences, no device
  2    wrong arguments
  3    no such array, group, file or key
  4    stored data or the store itself failed: damaged, unreadable, not writable
  5    the target exists, or holds an unfinished job with other arguments
  6    a package or device that is needed is not there
  130  interrupted; jobs that write go on where they stopped when run again
  141  the reader of the output went away"""


def status_of(error: BaseException) -> int | None:
    """The exit status of an error, None for one that is a bug."""
    from zarr_gpu import errors as e

    table: tuple[tuple[tuple[type[BaseException], ...], int], ...] = (
        ((e.NodeNotFoundError,), NOT_FOUND),
        ((e.ContainsNodeError, e.UnfinishedError), EXISTS),
        ((e.MissingDependencyError, e.DeviceUnavailableError), UNAVAILABLE),
        ((e.SelectionError, e.NodeTypeError, e.StoreKeyError, e.UnsupportedError), USAGE),
        ((e.ZarrGpuError,), FAILED),
        ((FileExistsError,), EXISTS),
        ((FileNotFoundError, KeyError), NOT_FOUND),
        ((ModuleNotFoundError,), UNAVAILABLE),
        ((OSError, MemoryError), FAILED),
        ((ValueError, TypeError, IndexError), USAGE),
    )
    for classes, status in table:
        if isinstance(error, classes):
            return status
    return None


def command(
    subparsers: Any, name: str, run: Any, text: str, examples: str, *, more: str = ""
) -> argparse.ArgumentParser:
    """A subcommand with its help; ``examples`` are lines that can be pasted."""
    lines = "\n".join(f"  {line.strip()}" for line in examples.strip().splitlines())
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=text,
        description=f"{text[:1].upper()}{text[1:]}.{more and ' ' + more}",
        epilog=f"examples:\n{lines}",
        formatter_class=_Formatter,
    )
    parser.set_defaults(run=run)
    return parser


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Examples keep their lines; descriptions are filled."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith(("examples:", "exit status:")):
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)  # noqa: SLF001 - documented nowhere, but the only way to mix both


def add_place(parser: argparse.ArgumentParser, name: str = "path", text: str = "") -> None:
    """An argument that names a node, and the options of its store."""
    parser.add_argument(
        name,
        help=text
        or "directory, zip file, safetensors file or URL; a node inside follows as STORE::PATH "
        "or STORE/PATH",
    )


def add_common(
    parser: argparse.ArgumentParser, *, document: bool = True, quiet: bool = False
) -> None:
    """Options that mean the same everywhere."""
    if document:
        parser.add_argument("--json", action="store_true", help="print a JSON document")
    if quiet:
        parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    parser.add_argument(
        "--storage-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of a URL's file system, as fsspec has them; repeat for several. VALUE may be JSON",
    )


def storage_options(args: argparse.Namespace) -> dict[str, Any] | None:
    """What ``--storage-option`` gave. ValueError for one without ``=``."""
    found: dict[str, Any] = {}
    for text in args.storage_option:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ValueError(f"--storage-option {text!r}: expected KEY=VALUE")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found or None


def split(text: str) -> tuple[str, str]:
    """A store and a path in it; ``::`` separates them where it is not fsspec's.

    >>> split("a.zip::x/y"), split("a.zip/x"), split("simplecache::s3://b/c")
    (('a.zip', 'x/y'), ('a.zip', 'x'), ('simplecache::s3://b/c', ''))
    """
    store, colons, path = text.rpartition("::")
    if colons and "://" not in path:
        return store, path.strip("/")
    for end in (".zip", ".safetensors"):
        at = text.find(end + "/")
        if at >= 0 and not os.path.isdir(text[: at + len(end)]):  # noqa: PTH112 - paths stay text
            return text[: at + len(end)], text[at + len(end) :].strip("/")
    return text, ""


def open_place(args: argparse.Namespace, text: str, **options: Any) -> Array | Group:
    """The node that ``text`` names, for reading. Raises NodeNotFoundError with what was found."""
    from zarr_gpu.errors import NodeNotFoundError, UnfinishedError
    from zarr_gpu.opening import open as open_node
    from zarr_gpu.places import find_place
    from zarr_gpu.tools.journal import unfinished

    store, path = split(text)
    given = storage_options(args) if "://" in store else None
    if not is_there(store):
        raise NodeNotFoundError(f"{store}: no such file or directory")
    try:
        return open_node(store, mode="r", path=path or None, storage_options=given, **options)
    except NodeNotFoundError:
        place = find_place(store, path or None, "r", given)
        what = unfinished(place.store, place.path)
        if what is not None:
            raise UnfinishedError(
                f"{text} is unfinished ({what}): run that command again to finish it"
            ) from None
        raise NodeNotFoundError(f"{text}: no array or group there") from None


def open_array(args: argparse.Namespace, text: str, **options: Any) -> Array:
    """The same for an array. NodeTypeError for a group."""
    from zarr_gpu.array import Array
    from zarr_gpu.errors import NodeTypeError

    node = open_place(args, text, **options)
    if not isinstance(node, Array):
        names = ", ".join(name for name, _ in node.arrays()) or "none"
        raise NodeTypeError(f"{text} is a group; name one of its arrays: {names}")
    return node


def open_listed(args: argparse.Namespace, text: str, **options: Any) -> Array | Group:
    """:func:`open_place` for who asks for members: UnsupportedError where nothing tells them."""
    from zarr_gpu.group import Group
    from zarr_gpu.tools.keys import check_members

    node = open_place(args, text, **options)
    if isinstance(node, Group):
        check_members(node)
    return node


def is_there(store: str) -> bool:
    """False for a path on this machine that does not exist."""
    return "://" in store or os.path.exists(store)  # noqa: PTH110 - paths stay text


def find_target(args: argparse.Namespace, text: str) -> tuple[Any, str | None, Any]:
    """``(store, path, storage options)`` of a node to be written.

    A path inside a hierarchy on this machine is found, so that groups in between are made.
    """
    store, path = split(text)
    if "://" in store:
        return store, path or None, storage_options(args)
    if path or store.endswith(".zip"):
        return store, path or None, None
    root, below = _hierarchy(store)
    return root, below or None, None


def _hierarchy(path: str) -> tuple[str, str]:
    """The outermost directory above ``path`` that is a Zarr node with all between, and the rest."""
    path = os.path.abspath(path)  # noqa: PTH100 - paths stay text
    at = path
    names: list[str] = []
    found = (path, "")
    above = False
    while os.path.dirname(at) != at:  # noqa: PTH120 - paths stay text
        names.insert(0, os.path.basename(at))  # noqa: PTH119 - paths stay text
        at = os.path.dirname(at)  # noqa: PTH120 - paths stay text
        if any(os.path.isfile(f"{at}/{n}") for n in ("zarr.json", ".zgroup", ".zarray")):  # noqa: PTH113 - paths stay text
            found, above = (at, "/".join(names)), True
        elif above:
            break
    return found


def print_json(document: Mapping[str, Any] | list[Any]) -> None:
    """A document for scripts; what JSON has no word for becomes text, as in Zarr's fill values."""
    try:
        text = json.dumps(document, indent=2, default=_plain, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(document), indent=2, default=_plain, allow_nan=False)
    print(text)


def _plain(value: Any) -> Any:
    tolist = getattr(value, "tolist", None)
    found = _finite(tolist()) if tolist is not None else value
    return found if isinstance(found, int | float | str | bool | list) else str(found)


def _finite(value: Any) -> Any:
    """NaN and infinities as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return number(value)
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return _finite(value.tolist()) if hasattr(value, "tolist") else value


def number(value: float) -> float | str:
    """What JSON has for a number: Zarr's words for those it has not.

    >>> number(1.5), number(float("nan")), number(float("-inf"))
    (1.5, 'NaN', '-Infinity')
    """
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def bar(args: argparse.Namespace) -> Bar:
    """Progress, unless ``--quiet``."""
    return Bar(quiet=getattr(args, "quiet", False))


def say(args: argparse.Namespace, text: str) -> None:
    """A remark on stderr, unless ``--quiet``."""
    if not getattr(args, "quiet", False):
        print(text, file=sys.stderr)


def colours() -> bool:
    """True when the output may have colours: a terminal, and no ``NO_COLOR``."""
    return not os.environ.get("NO_COLOR") and sys.stdout.isatty()


def parse_axes(text: str) -> Any:
    """``100,200``, ``time=100,x=-1``, ``auto`` or ``none``.

    >>> parse_axes("100,-1"), parse_axes("time=10,x=-1"), parse_axes("none")
    ((100, -1), {'time': 10, 'x': -1}, None)
    """
    lowered = text.strip().lower()
    if lowered == "none":
        return None
    if lowered in ("auto", "keep"):
        return lowered
    parts = [part.strip() for part in text.replace("x", ",").split(",")] if _sizes(text) else [
        part.strip() for part in text.split(",")
    ]  # fmt: skip
    try:
        if any("=" in part for part in parts):
            pairs = [part.partition("=") for part in parts]
            return {name.strip(): int(n) for name, _, n in pairs}
        return tuple(int(part) for part in parts if part)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected lengths (100,200), lengths by name (time=100,x=-1), auto or none"
        ) from None


def _sizes(text: str) -> bool:
    """``100x200``."""
    return "=" not in text and "x" in text
