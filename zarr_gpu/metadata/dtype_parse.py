"""From metadata documents, and from what users pass as ``dtype=``, to data types.

Sizes in documents are untrusted: they are checked before NumPy sees them.

>>> parse_v2([["x", "<i2"], ["y", ">f8"]], None).dtype
dtype([('x', '<i2'), ('y', '>f8')])
>>> from_dtype_like(">i2").dtype.isnative
True
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from zarr_gpu._types import JSON, Shape
from zarr_gpu.metadata.data_type import DataType
from zarr_gpu.metadata.dtype_names import (
    MAX_ITEMSIZE,
    ML_NAMES,
    PLAIN_NAMES,
    check_itemsize,
    element_dtype,
    ml_name,
    raw_nbytes,
)
from zarr_gpu.metadata.problems import is_int, is_list, show

MAX_FIELDS = 10_000
MAX_DEPTH = 32
_TIME_UNITS = frozenset(
    ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "μs", "ns", "ps", "fs", "as", "generic")
)
_OBJECT_CODECS = frozenset(
    {"vlen-array", "json2", "pickle", "categorize", "msgpack2", "json", "msgpack"}
)
_VARIABLE_BYTES = "variable_length_bytes"
"""The name zarr-python writes and reads; the registered ``bytes`` it would rename."""


# ------------------------------------------------------------------------------------ documents


def parse_v3(value: JSON) -> DataType:
    """The type a v3 ``data_type`` member means.

    Raises ValueError, or MissingDependencyError when the type takes ml_dtypes.
    """
    return _parse_v3(value, 0)


def _parse_v3(value: object, depth: int) -> DataType:
    name, config = _name_and_configuration(value)
    if name in ("struct", "structured"):
        return _v3_struct(name, config, depth)
    parse = _V3_CONFIGURED.get(name)
    if parse is not None:
        return parse(name, config)
    if config:
        raise ValueError(f"data type {name!r} takes no configuration, found {show(config)}")
    if name == "string":
        return STRING
    if name in ("bytes", _VARIABLE_BYTES):
        return _variable_bytes(name)
    if name in PLAIN_NAMES:
        return DataType(name=name, dtype=element_dtype(name))
    if nbytes := raw_nbytes(name):
        return DataType(name=name, dtype=np.dtype(f"V{nbytes}"))
    raise ValueError(f"unknown data type {show(name)}")


def _name_and_configuration(value: object) -> tuple[str, Mapping[str, Any]]:
    if isinstance(value, str):
        return value, {}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ValueError(f"expected a name or an object with a name, found {show(value)}")
    if unknown := value.keys() - {"name", "configuration", "must_understand"}:
        raise ValueError(f"unknown member {min(map(str, unknown))!r} of a data type")
    config = value.get("configuration", {})
    if not isinstance(config, Mapping):
        raise ValueError(f"configuration must be an object, found {show(config)}")
    return value["name"], config


def _member(config: Mapping[str, Any], name: str, owner: str) -> Any:
    if name not in config:
        raise ValueError(f"data type {owner!r} needs {name!r} in its configuration")
    return config[name]


def _only(config: Mapping[str, Any], owner: str, *names: str) -> None:
    if unknown := config.keys() - set(names):
        raise ValueError(f"data type {owner!r}: unknown member {min(unknown)!r}")


def _v3_time(name: str, config: Mapping[str, Any]) -> DataType:
    _only(config, name, "unit", "scale_factor")
    unit = _member(config, "unit", name)
    scale = _member(config, "scale_factor", name)
    if not isinstance(unit, str) or unit not in _TIME_UNITS:
        raise ValueError(f"data type {name!r}: unknown unit {show(unit)}")
    if not is_int(scale) or not 1 <= scale < 2**31:
        raise ValueError(f"data type {name!r}: scale_factor {show(scale)} is not in 1..2**31-1")
    code = "M8" if name == "numpy.datetime64" else "m8"
    if unit != "generic":
        code += f"[{scale}{unit.replace('μ', 'u')}]"
    return DataType(name=name, dtype=np.dtype(code), configuration=dict(config))


def _v3_sized(name: str, config: Mapping[str, Any]) -> DataType:
    _only(config, name, "length_bytes")
    nbytes = _member(config, "length_bytes", name)
    if not is_int(nbytes):
        raise ValueError(f"data type {name!r}: length_bytes {show(nbytes)} is not an integer")
    check_itemsize(nbytes, name)
    code = {"null_terminated_bytes": "S", "raw_bytes": "V"}.get(name, "U")
    if code == "U":
        if nbytes % 4:
            raise ValueError(f"data type {name!r}: length_bytes {nbytes} is not a multiple of 4")
        nbytes //= 4
    return DataType(name=name, dtype=np.dtype(f"{code}{nbytes}"), configuration=dict(config))


_V3_CONFIGURED = {
    "numpy.datetime64": _v3_time,
    "numpy.timedelta64": _v3_time,
    "null_terminated_bytes": _v3_sized,
    "raw_bytes": _v3_sized,
    "fixed_length_utf32": _v3_sized,
}


def _v3_struct(name: str, config: Mapping[str, Any], depth: int) -> DataType:
    _only(config, name, "fields")
    listed = _member(config, "fields", name)
    _check_fields(listed, depth)
    members = []
    for entry in listed:
        if isinstance(entry, Mapping) and entry.keys() == {"name", "data_type"}:
            label, spec = entry["name"], entry["data_type"]
        elif is_list(entry) and len(entry) == 2:
            label, spec = entry
        else:
            raise ValueError(f"data type {name!r}: a field needs name and data_type: {show(entry)}")
        members.append((None, label, _parse_v3(spec, depth + 1)))
    return _struct(members, name=name, configuration=dict(config))


def _check_fields(listed: object, depth: int) -> None:
    if not is_list(listed) or not 1 <= len(listed) <= MAX_FIELDS:
        raise ValueError(f"expected a list of 1 to {MAX_FIELDS} fields, found {show(listed)}")
    if depth >= MAX_DEPTH:
        raise ValueError(f"structs nested deeper than {MAX_DEPTH}")


_V2_CODE = re.compile(r"[<>|]([biufcSUV])([0-9]{1,10})")
_V2_TIME = re.compile(r"[<>|]([mM])8(?:\[([0-9]{1,10})?([a-zμ]+|[YMWD])\])?")
_V2_SIZES = {"b": {1}, "i": {1, 2, 4, 8}, "u": {1, 2, 4, 8}, "f": {2, 4, 8}, "c": {8, 16}}


def parse_v2(value: JSON, object_codec: str | None) -> DataType:
    """The type a ``dtype`` member of ``.zarray`` means.

    ``object_codec``: ``id`` of the object codec among the filters, which is what tells types of
    dtype ``|O`` apart. Raises ValueError, or MissingDependencyError.
    """
    if isinstance(value, str) and value in ("|O", "<O", ">O", "O"):
        return _v2_object(object_codec)
    return _parse_v2(value, 0)


def _v2_object(codec: str | None) -> DataType:
    if codec == "vlen-utf8":
        return STRING
    if codec == "vlen-bytes":
        return _variable_bytes(_VARIABLE_BYTES)
    if codec in _OBJECT_CODECS:
        return DataType(name="object", dtype=np.dtype("O"), kind="object")
    if codec is None:
        raise ValueError(
            "dtype |O without an object codec (vlen-utf8, vlen-bytes, json2, ...) in filters: "
            "nothing says how its elements are stored"
        )
    raise ValueError(f"dtype |O with the unknown object codec {codec!r}")


def _parse_v2(value: object, depth: int) -> DataType:
    if is_list(value):
        _check_fields(value, depth)
        return _struct([_v2_field(entry, depth) for entry in value])
    if not isinstance(value, str):
        raise ValueError(f"expected a NumPy type string or a list of fields, found {show(value)}")
    if value in ML_NAMES:
        return DataType(name=value, dtype=element_dtype(value))
    if found := _V2_TIME.fullmatch(value):
        return _from_numpy(_v2_time(value, *found.groups()))
    if found := _V2_CODE.fullmatch(value):
        return _from_numpy(_v2_dtype(value, found[1], int(found[2])))
    if value.endswith("O"):
        raise ValueError("fields of structs cannot be objects")
    raise ValueError(f"unknown v2 dtype {show(value)}")


def _v2_dtype(text: str, code: str, n: int) -> np.dtype[Any]:
    check_itemsize(4 * n if code == "U" else n, text)
    order = "<" if text[0] == "|" else text[0]
    if code in _V2_SIZES and n not in _V2_SIZES[code]:
        longdouble = np.dtype(np.longdouble).itemsize
        if (code, n) not in (("f", longdouble), ("c", 2 * longdouble)):
            raise ValueError(f"v2 dtype {text!r}: no such type on this machine")
    return np.dtype(f"{order}{code}{n}")


def _v2_time(text: str, code: str, scale: str | None, unit: str | None) -> np.dtype[Any]:
    if (unit and unit not in _TIME_UNITS) or not 1 <= int(scale or 1) < 2**31:
        raise ValueError(f"v2 dtype {show(text)}: unknown unit or multiple")
    order = "<" if text[0] == "|" else text[0]
    if unit in (None, "generic"):
        return np.dtype(f"{order}{code}8")
    return np.dtype(f"{order}{code}8[{int(scale or 1)}{unit.replace('μ', 'u')}]")


def _v2_field(entry: object, depth: int) -> tuple[str | None, object, DataType]:
    if not is_list(entry) or len(entry) not in (2, 3):
        raise ValueError(f"a field is [name, dtype] or [name, dtype, shape], found {show(entry)}")
    label, spec, *shape = entry
    title = None
    if is_list(label) and len(label) == 2:
        title, label = label
    if title is not None and not isinstance(title, str):
        raise ValueError(f"a field title is a string, found {show(title)}")
    member = _parse_v2(spec, depth + 1)
    return title, label, _subarray(member, shape[0]) if shape else member


# ------------------------------------------------------------------------------------- builders

STRING = DataType(name="string", dtype=np.dtypes.StringDType(), kind="string")


def _variable_bytes(name: str) -> DataType:
    return DataType(name=name, dtype=np.dtype("O"), kind="bytes")


def _struct(
    members: Iterable[tuple[str | None, object, DataType]],
    *,
    name: str = "struct",
    configuration: Mapping[str, JSON] | None = None,
) -> DataType:
    """A packed struct of ``(title, name, type)``; the v3 configuration is made unless given."""
    fields: list[tuple[str, DataType]] = []
    spec: list[tuple[Any, ...]] = []
    seen: set[object] = set()
    for title, label, member in members:
        if not isinstance(label, str) or not label or label in seen or title in seen - {None}:
            raise ValueError(f"field names are different, non-empty strings, found {show(label)}")
        if member.is_variable:
            raise ValueError(f"field {label!r}: {member.name} has no fixed size")
        seen |= {label, title}
        fields.append((label, member))
        spec.append((label if title is None else (title, label), member.dtype))
    check_itemsize(sum(member.itemsize for _, member in fields), "struct")
    out = DataType(name=name, dtype=np.dtype(spec), fields=tuple(fields))
    if configuration is None and out.in_v3:
        configuration = {"fields": [{"name": n, "data_type": t.to_json()} for n, t in fields]}
    return DataType(name=name, dtype=out.dtype, fields=out.fields, configuration=configuration)


def _subarray(base: DataType, shape: object) -> DataType:
    """A field of ``shape`` elements of ``base``."""
    extents = [shape] if is_int(shape) else shape
    if not is_list(extents) or not 1 <= len(extents) <= 32:
        raise ValueError(f"the shape of a field is a list of integers, found {show(shape)}")
    if not all(is_int(n) and 1 <= n <= MAX_ITEMSIZE for n in extents):
        raise ValueError(f"extents of fields are positive integers, found {show(shape)}")
    inner: Shape = tuple(extents)
    check_itemsize(base.itemsize * math.prod(inner), f"field of shape {show(shape)}")
    return DataType(name="subarray", dtype=np.dtype((base.dtype, inner)), fields=(("", base),))


def _from_numpy(dtype: np.dtype[Any]) -> DataType:
    """The type of a NumPy dtype, in its byte order."""
    if dtype.names is not None and dtype.fields is not None:
        entries = [(name, dtype.fields[name]) for name in dtype.names]
        return _struct(
            (str(entry[2]) if len(entry) == 3 else None, name, _from_numpy(entry[0]))
            for name, entry in entries
        )
    if dtype.subdtype is not None:
        return _subarray(_from_numpy(dtype.base), list(dtype.shape))
    if (name := ml_name(dtype)) is not None:
        return DataType(name=name, dtype=dtype)
    match dtype.kind:
        case "T":
            if hasattr(dtype, "na_object"):
                raise ValueError("StringDType with an na_object: Zarr has no missing strings")
            return STRING
        case "O":
            raise ValueError(
                "dtype object does not say what the elements are: pass str for strings "
                "or bytes for variable-length bytes"
            )
        case "S" | "U" | "V":
            check_itemsize(dtype.itemsize, dtype.str)
            names = {"S": "null_terminated_bytes", "U": "fixed_length_utf32", "V": "raw_bytes"}
            size: dict[str, JSON] = {"length_bytes": dtype.itemsize}
            return DataType(name=names[dtype.kind], dtype=dtype, configuration=size)
        case "M" | "m":
            unit, scale = np.datetime_data(dtype)
            name = "numpy.datetime64" if dtype.kind == "M" else "numpy.timedelta64"
            return DataType(
                name=name, dtype=dtype, configuration={"unit": unit, "scale_factor": scale}
            )
    return DataType(name=_number_name(dtype), dtype=dtype)


def _number_name(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "b":
        return "bool"
    words = {"i": "int", "u": "uint", "f": "float", "c": "complex"}
    name = f"{words.get(dtype.kind, dtype.kind)}{8 * dtype.itemsize}"
    if name in PLAIN_NAMES:
        return name
    if dtype.type in (np.longdouble, np.clongdouble):
        return "longdouble" if dtype.kind == "f" else "clongdouble"
    raise ValueError(f"{dtype!r} has no Zarr data type")


# ----------------------------------------------------------------------------------- user values


def from_dtype_like(value: Any, zarr_format: int = 3) -> DataType:
    """The type a user means by ``dtype=value``.

    Takes NumPy and ml_dtypes types, names of either format, ``str`` and ``bytes`` (of variable
    length), fields, v3 documents and the data types of zarr-python. In v3 the byte order becomes
    native. Raises ValueError, or TypeError from NumPy for what is no type at all.
    """
    data_type = _from_dtype_like(value, zarr_format)
    if zarr_format == 2:
        return data_type
    data_type.to_json()  # ValueError for what only v2 can spell
    return _native(data_type)


def _native(data_type: DataType) -> DataType:
    """The same type with all bytes in native order."""
    if data_type.dtype.isnative:
        return data_type
    if data_type.category == "struct":
        members = [(None, name, _native(member)) for name, member in data_type.fields]
        return _struct(members, name=data_type.name, configuration=data_type.configuration)
    return replace(data_type, dtype=data_type.dtype.newbyteorder("="))


def _from_dtype_like(value: Any, zarr_format: int) -> DataType:
    if isinstance(value, DataType):
        return value
    if callable(to_json := getattr(value, "to_json", None)):
        return _from_document(to_json(zarr_format=zarr_format))
    if isinstance(value, Mapping):
        return _from_document(value)
    if isinstance(value, str):
        return _from_text(value)
    if value is str or value is np.dtypes.StringDType:
        return STRING
    if value is bytes:
        return _variable_bytes(_VARIABLE_BYTES)
    if isinstance(value, list):
        return _struct(_listed_field(entry, zarr_format) for entry in value)
    return _from_numpy(np.dtype(value))


def _from_document(document: Any) -> DataType:
    if isinstance(document, Mapping) and "object_codec_id" in document:
        return parse_v2(document["name"], document["object_codec_id"])
    return parse_v3(document)


def _from_text(text: str) -> DataType:
    if text in ("str", "string"):
        return STRING
    if text in ("bytes", _VARIABLE_BYTES):
        return _variable_bytes(_VARIABLE_BYTES)
    if text in PLAIN_NAMES or text in _V3_CONFIGURED or raw_nbytes(text):
        return parse_v3(text)
    return _from_numpy(np.dtype(text))


def _listed_field(entry: Any, zarr_format: int) -> tuple[str | None, object, DataType]:
    label, spec, *shape = entry
    title = None
    if isinstance(label, (tuple, list)):
        title, label = label
    member = _from_dtype_like(spec, zarr_format)
    return title, label, _subarray(member, shape[0]) if shape else member
