"""From names to codecs: format 3 names, numcodecs identifiers, and what users pass.

Modules of codecs are imported at first use, so that ``import zarr_gpu`` stays fast. Codecs of
other packages are found through :func:`register`, the entry point group ``zarr_gpu.codecs`` (names
of :class:`~zarr_gpu.codecs.base.Codec` classes) and the registry of numcodecs.

>>> get_codec({"name": "bytes", "configuration": {"endian": "little"}})
BytesCodec(endian='little')
>>> from_v2({"id": "vlen-utf8"})
VLenUTF8Codec()
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from zarr_gpu._types import JSON
from zarr_gpu.codecs.base import ArrayBytesCodec, BytesBytesCodec, Codec, Kind
from zarr_gpu.errors import MetadataError, Problem, UnknownCodecError
from zarr_gpu.metadata.named import NamedConfig, parse_named
from zarr_gpu.metadata.problems import Problems, show

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

C = TypeVar("C", bound=type[Codec])

GROUP = "zarr_gpu.codecs"
PREFIX = "numcodecs."

# Name in a format 3 document -> module of this package whose class has that ``name``.
_NAMES = {
    "bitround": "bitround",
    "blosc": "blosc",
    "bytes": "bytes",
    "cast_value": "cast_value",
    "crc32c": "checksums",
    "gzip": "gzip",
    "n5_default": "n5_default",
    "numcodecs.astype": "numcodecs",
    "numcodecs.delta": "delta",
    "numcodecs.fixedscaleoffset": "numcodecs",
    "numcodecs.packbits": "numcodecs",
    "numcodecs.pcodec": "pcodec",
    "numcodecs.quantize": "numcodecs",
    "numcodecs.zfpy": "zfp",
    "packbits": "packbits",
    "reshape": "reshape",
    "scale_offset": "scale_offset",
    "sharding_indexed": "sharding",
    "transpose": "transpose",
    "vlen-bytes": "vlen",
    "vlen-utf8": "vlen",
    "zarrs.gdeflate": "gdeflate",
    "zfp": "zfp",
    "zstd": "zstd",
}
_ALIASES = {"endian": "bytes", "numcodecs.bitround": "bitround"}

# numcodecs identifier -> module whose NUMCODECS maps it to a class with ``from_numcodecs``.
_IDENTIFIERS = {
    "adler32": "checksums",
    "base64": "objects",
    "blosc": "blosc",
    "bz2": "bz2",
    "categorize": "objects",
    "crc32": "checksums",
    "crc32c": "checksums",
    "fletcher32": "checksums",
    "gzip": "gzip",
    "jenkins_lookup3": "checksums",
    "json2": "objects",
    "lz4": "lz4",
    "lzma": "lzma",
    "msgpack2": "objects",
    "pcodec": "pcodec",
    "pickle": "objects",
    "shuffle": "shuffle",
    "vlen-array": "objects",
    "vlen-bytes": "vlen",
    "vlen-utf8": "vlen",
    "zfpy": "zfp",
    "zlib": "zlib",
    "zstd": "zstd",
}

# Beginning of a name -> what is known about it, for the error message.
_ELSEWHERE = {
    "conditional": "it is registered, but no implementation is known",
    "gribberish": "the package 'gribberish' has it, for zarr-python",
    "imagecodecs_": "numcodecs finds it in format 2 when 'imagecodecs-numcodecs' is installed",
    "jpeg": "only neuroglancer's tools have it",
    "omfiles.": "the package 'omfiles' has it, for zarr-python",
    "virtual_tiff.": "the package 'virtual-tiff' has it, for zarr-python",
    "zarrs.": "only the Rust crate 'zarrs' has it",
}

_registered: dict[str, type[Codec]] = {}
_generation = object()


class Named(Protocol):
    """A codec in a format 3 document."""

    @property
    def name(self) -> str: ...

    @property
    def configuration(self) -> Mapping[str, JSON]: ...


def _entry_points() -> EntryPoints:
    from importlib.metadata import entry_points  # slow to import

    return entry_points(group=GROUP)


def register(cls: C) -> C:
    """Make a codec class known under its ``name``, before any other of that name."""
    global _generation  # noqa: PLW0603 - of the one registry
    _registered[cls.name] = cls
    _generation = object()
    return cls


def generation() -> object:
    """Another one when a name may mean another codec than before."""
    return _generation


def known() -> list[str]:
    """Names that :func:`get_codec` answers to, sorted."""
    names = {*_NAMES, *_ALIASES, *_registered, *(PREFIX + name for name in _IDENTIFIERS)}
    return sorted(names | set(_entry_points().names))


def get_codec(named: Named | Mapping[str, JSON] | str) -> Codec:
    """The codec of a format 3 document.

    Codecs of numcodecs may be called ``numcodecs.lz4`` or just ``lz4``, as some writers do.
    Raises UnknownCodecError, and ValueError naming the codec and the member for a configuration
    that is wrong.
    """
    if isinstance(named, (str, Mapping)):
        named = _parse(named)
    identifier = named.name.removeprefix(PREFIX)
    config = {**named.configuration, "id": identifier}
    try:
        cls = _class(named.name)
        if cls is None and identifier in _IDENTIFIERS:
            return _native(identifier, config)
        cls = cls or _entry_point(named.name)
        if cls is not None:
            return cls.from_config(named.configuration)
        if named.name.startswith(PREFIX) and _in_numcodecs(identifier):
            return _wrapped(config)
    except MetadataError:
        raise  # says by itself where inside a nested document the fault is
    except ValueError as error:
        raise ValueError(f"codec {named.name!r}: {error}") from error
    raise _unknown(named.name, known())


def from_v2(
    config: Mapping[str, JSON], *, allow_pickle: bool = False
) -> BytesBytesCodec | ArrayBytesCodec:
    """The codec of a format 2 document: a compressor or a filter, ``{"id": ..., ...}``.

    Object codecs are array -> bytes codecs. Everything else works on the bytes of the step
    before. Raises as :func:`get_codec` does.
    """
    identifier = config.get("id")
    if not isinstance(identifier, str):
        raise MetadataError([Problem(("id",), f"expected a string, found {show(identifier)}")])
    try:
        if identifier == "pickle":
            from zarr_gpu.codecs.objects import PickleCodec

            return PickleCodec.from_numcodecs(config, allow=allow_pickle)
        if identifier in _IDENTIFIERS:
            return _native(identifier, config)
        if _in_numcodecs(identifier):
            return _wrapped(config)
    except ValueError as error:
        raise ValueError(f"codec {identifier!r}: {error}") from error
    raise _unknown(identifier, sorted(_IDENTIFIERS))


def codec_from_user(value: Any, kind: Kind | None = None) -> Codec | dict[str, JSON]:
    """What users pass as compressor, filter or serializer.

    Codecs of this package, names, format 3 documents and codec objects of zarr-python become
    codecs; numcodecs objects and ``{"id": ...}`` become the plain dictionary of format 2, which
    :func:`from_v2` reads, or :func:`get_codec` with the ``id`` as name. With ``kind``, a codec of
    another kind is a ValueError. Raises TypeError for anything else.
    """
    if isinstance(value, Codec):
        codec = value
    elif isinstance(value, Mapping) and "id" in value:
        return dict(value)
    elif isinstance(value, (str, Mapping)):
        codec = get_codec(value)
    elif callable(getattr(value, "to_dict", None)) and not isinstance(value, type):
        codec = get_codec(_foreign_document(value))
    elif callable(getattr(value, "get_config", None)) and not isinstance(value, type):
        return dict(value.get_config())
    else:
        raise TypeError(f"expected a codec or the document of one, found {show(value)}")
    if kind is not None and codec.kind != kind:
        expected, found = (k.replace("_", " -> ") for k in (kind, codec.kind))
        raise ValueError(f"expected a codec {expected}, but {codec.name!r} is {found}")
    return codec


def _foreign_document(codec: Any) -> dict[str, JSON]:
    """The document of zarr-python's codec, without what it leaves to be chosen for the data.

    Its Blosc has defaults there, which are those of no data type.
    """
    document: dict[str, JSON] = dict(codec.to_dict())
    undecided = getattr(codec, "_tunable_attrs", ())
    configuration = document.get("configuration")
    if undecided and isinstance(configuration, dict):
        decided = {k: v for k, v in configuration.items() if k not in undecided}
        document["configuration"] = decided
    return document


def _parse(value: str | Mapping[str, JSON]) -> NamedConfig:
    problems = Problems()
    # Of users, or of other libraries: nothing is said about what may be ignored.
    named = parse_named(value, (), problems, ignorable=True)
    problems.raise_if_any("codec")
    return named if named is not None else NamedConfig("")


def _class(name: str) -> type[Codec] | None:
    """The class registered for a name, or our own."""
    name = _ALIASES.get(name, name)
    if name in _registered:
        return _registered[name]
    for candidate in (name, PREFIX + name):
        if candidate in _NAMES:
            return _member(import_module(f"zarr_gpu.codecs.{_NAMES[candidate]}"), candidate)
    return None


def _entry_point(name: str) -> type[Codec] | None:
    """The class an installed package offers; looked for last, as it takes reading many files."""
    for entry in _entry_points().select(name=name):
        cls = entry.load()
        if not (isinstance(cls, type) and issubclass(cls, Codec)):
            raise TypeError(f"entry point {entry.value!r} is not a zarr_gpu codec class")
        _registered[name] = cls
        return cls
    return None


def _member(module: Any, name: str) -> type[Codec]:
    for value in vars(module).values():
        is_codec = isinstance(value, type) and issubclass(value, Codec)
        if is_codec and value.__module__ == module.__name__ and vars(value).get("name") == name:
            return value  # type: ignore[no-any-return]  # is_codec says what it is
    raise LookupError(f"{module.__name__} has no codec {name!r}")


def _native(identifier: str, config: Mapping[str, JSON]) -> BytesBytesCodec | ArrayBytesCodec:
    module = import_module(f"zarr_gpu.codecs.{_IDENTIFIERS[identifier]}")
    return module.NUMCODECS[identifier].from_numcodecs(config)  # type: ignore[no-any-return]


def _wrapped(config: Mapping[str, JSON]) -> BytesBytesCodec:
    from zarr_gpu.codecs.numcodecs import NumcodecsCodec

    return NumcodecsCodec.from_numcodecs(config)


def _in_numcodecs(identifier: str) -> bool:
    from numcodecs import registry

    return identifier in registry.codec_registry or identifier in registry.entries


def _unknown(name: str, names: list[str]) -> UnknownCodecError:
    import difflib

    message = f"no codec is called {show(name)}"
    alike = difflib.get_close_matches(name[:100], names, 3)
    if alike:
        message += f"; did you mean {' or '.join(map(repr, alike))}?"
    for start, hint in _ELSEWHERE.items():
        if name.startswith(start):
            message += f"; {hint}"
    return UnknownCodecError([Problem(("name",), message, "unsupported")])
