"""What the device makes of elements is what the host's codecs make of them, bit for bit.

``check`` decodes every value in a row of its own, so that each has a status. Values with status 0,
as one row, must be what the host decodes; the others the host must refuse, or their result must
depend on its processor (``dubious``). All combinations of ``cast_value`` run with ``-m slow``.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.codecs.array_codecs import random_array, spec_of
from tests.kernels.build import examples
from tests.kernels.test_elements import BAD_VALUE, OK, run, run_each, some
from zarr_gpu.codecs.base import Size
from zarr_gpu.codecs.bytes import BytesCodec
from zarr_gpu.codecs.cast_value import CastValueCodec
from zarr_gpu.codecs.delta import DeltaCodec
from zarr_gpu.codecs.numcodecs import NumcodecsCodec
from zarr_gpu.codecs.packbits import PackBitsCodec
from zarr_gpu.codecs.registry import from_v2, get_codec
from zarr_gpu.device.elements import element_step, reason
from zarr_gpu.errors import CodecError
from zarr_gpu.metadata.dtypes import parse_v3

INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
FLOATS = ["float16", "float32", "float64"]
NUMBERS = [*INTEGERS, *FLOATS]
MANTISSA = {2: 10, 4: 23, 8: 52}
SMALL = [
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "float6_e2m3fn",
    "float4_e2m1fn",
    "int4",
    "uint2",
]
ROUNDINGS = [
    "nearest-even", "towards-zero", "towards-positive", "towards-negative", "nearest-away"
]  # fmt: skip


# -- values ---------------------------------------------------------------------------------------


def values_of(dtype, n=150, seed=0):
    """Random bits, and all that is special in a type."""
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(seed)
    size = dtype.itemsize
    if size == 1:
        return np.arange(256, dtype="u1").view(dtype) if dtype.kind != "b" else np.arange(2) == 1
    parts = [rng.integers(0, 256, (n, size), np.uint8).view(f"u{size}").reshape(-1)]
    if dtype.kind == "f":
        parts.append(special_floats(size, rng))
        numbers = [np.arange(-64, 64) / 4, rng.normal(0, 1e3, n), 2.0 ** rng.uniform(-160, 140, n)]
        with np.errstate(all="ignore"):
            parts.append(np.concatenate(numbers).astype(dtype).view(f"u{size}"))
    else:
        powers = [s * (1 << k) + d for k in range(8 * size) for d in (-1, 0, 1) for s in (1, -1)]
        small = [*range(-20, 20), *powers]
        parts.append(np.array([x % (1 << 8 * size) for x in small], f"u{size}"))
    return np.concatenate(parts).view(dtype)


def special_floats(size, rng):
    """Zeros, subnormals, infinities and NaNs; the ends of the ranges of other types."""
    mantissa, sign = MANTISSA[size], 1 << (8 * size - 1)
    top = (sign >> mantissa) - 1
    bias = top // 2
    near = [0, 8, 11, 15, 16, 31, 32, 52, 53, 62, 63, 64, 127, 128, -1, -2, -14, -24, -25, -26]
    near += [-126, -127, -148, -149, -150, -151]
    exponents = {0, 1, top - 1, top, *(e + bias for e in near if 0 < e + bias < top)}
    whole = 1 << mantissa
    tails = {0, 1, whole - 1, whole // 2, whole // 2 + 1, whole // 2 - 1, whole // 4}
    tails |= {int(x) for x in rng.integers(0, whole, 2)}
    if mantissa > 23:  # ties of narrower types
        tails |= {whole - (1 << 28), whole - (1 << 41), 1 << 28, 3 << 28, 1 << 41, 3 << 41}
    bits = [e << mantissa | m for e in exponents for m in tails]
    return np.array([*bits, *(b | sign for b in bits)], f"u{size}")


def signalling(array):
    """NaNs whose conversion to or from float16 depends on how NumPy was compiled."""
    quiet = 1 << (MANTISSA[array.dtype.itemsize] - 1)
    return np.isnan(array) & (array.view(f"u{array.dtype.itemsize}") & quiet == 0)


def outside(array, dtype):
    """Floats that an integer type does not hold."""
    info = np.iinfo(dtype)
    whole = np.trunc(array.astype("f8"))
    return ~((whole >= float(info.min)) & (whole < float(info.max + 1)))


def dubious_casts(array, dtype):
    with np.errstate(all="ignore"):
        if array.dtype.kind != "f" or array.dtype == dtype:
            return np.zeros(len(array), np.bool_)
        if np.dtype(dtype).kind in "iu":
            return outside(array, dtype)
        if np.dtype(dtype).kind == "f" and "float16" in (array.dtype.name, np.dtype(dtype).name):
            return signalling(array)
    return np.zeros(len(array), np.bool_)


def host(codec, data, nbytes, spec=None):
    """What the host decodes, as native bytes; None when it refuses."""
    try:
        if isinstance(codec, NumcodecsCodec):
            return bytes(codec.decode(bytes(data), Size(nbytes)))
        with np.errstate(all="ignore"):
            result = codec.decode(data, replace(spec, shape=np.shape(data)))
    except CodecError:
        return None
    return np.ascontiguousarray(result, result.dtype.newbyteorder("=")).tobytes()


def check(codec, stored, nbytes, dubious=None, spec=None, encoded=None, may_refuse=False):
    step = element_step(codec, spec, encoded)
    assert step is not None, reason(codec, spec, encoded)
    if isinstance(codec, NumcodecsCodec):
        as_stored = lambda part: part.tobytes()  # noqa: E731
    else:
        as_stored = lambda part: part  # noqa: E731
    status, single = run_each(step, stored, nbytes)
    assert set(status.tolist()) <= {OK, BAD_VALUE}
    dubious = np.zeros(len(stored), np.bool_) if dubious is None else dubious
    assert (status[dubious] == BAD_VALUE).all()
    good = stored[status == OK]
    expected = host(codec, as_stored(good), nbytes * len(good), spec)
    assert expected is not None
    compare(single[status == OK].tobytes(), expected, good, nbytes)
    if len(good):
        ((whole, out),) = run(step, [good.tobytes()], [nbytes * len(good)], shift=3)
        assert whole == OK
        compare(out, expected, good, nbytes)
    bad = np.flatnonzero((status == BAD_VALUE) & ~dubious)
    assert may_refuse or not len(bad)
    for i in np.random.default_rng(len(bad)).permutation(bad)[:10]:
        assert host(codec, as_stored(stored[i : i + 1]), nbytes, spec) is None, stored[i]


def compare(found, expected, values, nbytes):
    if found != expected:
        found, expected = (np.frombuffer(b, f"V{nbytes}") for b in (found, expected))
        at = np.flatnonzero(found != expected)
        shown = [(values[i], found[i].tobytes().hex(), expected[i].tobytes().hex()) for i in at[:5]]
        raise AssertionError(f"{len(at)} differ: (value, found, expected) = {shown}")


# -- conversions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["bool", *NUMBERS])
def test_astype_between_all_types(source):
    values = values_of(source, seed=1)
    for i, target in some(enumerate(["bool", *NUMBERS])):
        orders = [("<", "<"), (">", "<"), ("<", ">"), (">", ">")][i % 2 :: 2]
        for stored, decoded in [
            (np.dtype(source).newbyteorder(a), np.dtype(target).newbyteorder(b)) for a, b in orders
        ]:
            codec = from_v2(
                {"id": "astype", "encode_dtype": stored.str, "decode_dtype": decoded.str}
            )
            if stored == decoded:
                assert element_step(codec).kernel is None
                continue
            check(codec, values.astype(stored), decoded.itemsize, dubious_casts(values, target))


@pytest.mark.parametrize("source", ["bool", *NUMBERS])
def test_astype_of_format_3(source):
    values = values_of(source, 50, seed=2)
    for target in some(NUMBERS):
        spec = spec_of(target, values.shape)
        codec = get_codec({"name": "numcodecs.astype", "configuration": {"encode_dtype": source}})
        codec = codec.bind(spec)
        if source != target:
            encoded = codec.encoded_spec(spec)
            check(codec, values, spec.dtype.itemsize, dubious_casts(values, target), spec, encoded)


@pytest.mark.parametrize(
    ("stored", "decoded"), [("<f4", "<f8"), (">f8", "<f4"), ("<f2", ">f4"), ("<f4", "<f2")]
)
def test_quantized_floats_change_their_type_only(stored, decoded):
    codec = from_v2({"id": "quantize", "digits": 3, "dtype": decoded, "astype": stored})
    native = np.dtype(stored).newbyteorder("=")
    values = values_of(native, seed=3)
    dubious = dubious_casts(values, np.dtype(decoded).newbyteorder("="))
    check(codec, values.astype(stored), int(decoded[2]), dubious)


CONSTANTS = [
    (10, 0),
    (10.0, 1000),
    (0.1, -7.25),
    (-3, 1e300),
    (1e-3, 0.5),
    (2**53 + 1, 2**60 + 1),
    (1e30, -1e30),
    (3, 1 / 3),
]


def check_fixed_scale_offset(stored, decoded, scale, offset, values):
    codec = from_v2(
        {
            "id": "fixedscaleoffset",
            "scale": scale,
            "offset": offset,
            "dtype": decoded,
            "astype": stored,
        }
    )
    with np.errstate(all="ignore"):
        result = values / scale + offset
    target = np.dtype(decoded).newbyteorder("=")
    dubious = outside(result, target) if target.kind in "iu" else None
    check(codec, values.astype(stored), target.itemsize, dubious)


@pytest.mark.parametrize("source", [*INTEGERS, "float32", "float64"])
def test_fixed_scale_and_offset(source):
    values = values_of(source, 60, seed=4)
    stored = np.dtype(source).newbyteorder(">" if "u" in source else "<").str
    for i, (scale, offset) in some(enumerate(CONSTANTS)):
        if source == "float32" and max(abs(scale), abs(offset)) > 1e38:
            continue
        for target in ("<f8", ">f4", ["|i1", "<u2", ">i4", "<u4", "<i8", ">u8", "|b1", "<f2"][i]):
            check_fixed_scale_offset(stored, target, scale, offset, values)


CONSTANT = st.floats(allow_nan=False, allow_infinity=False, width=32) | st.integers(-(10**6), 10**6)


@settings(max_examples=examples(25))
@given(st.data())
def test_any_fixed_scale_and_offset(data):
    scale = data.draw(CONSTANT.filter(lambda x: x != 0))
    offset = data.draw(CONSTANT)
    source = data.draw(st.sampled_from([*INTEGERS, "float32", "float64"]))
    target = data.draw(st.sampled_from(NUMBERS))
    values = values_of(source, 20, seed=data.draw(st.integers(0, 100)))[-120:]
    check_fixed_scale_offset(np.dtype(source).str, np.dtype(target).str, scale, offset, values)


def test_fixed_scale_and_offset_of_format_3():
    spec = spec_of("float32", (1,))
    config = {"scale": 100, "offset": 273.15, "astype": "int16"}
    codec = get_codec({"name": "numcodecs.fixedscaleoffset", "configuration": config}).bind(spec)
    check(codec, values_of("int16"), 4, None, spec, codec.encoded_spec(spec))


# -- scale_offset ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", INTEGERS)
def test_scales_and_offsets_of_integers(dtype):
    info = np.iinfo(dtype)
    values = values_of(dtype, seed=5)
    values = np.concatenate([values, values // 7 * 7, values // 10 * 10])
    low, high = int(info.min), int(info.max)
    scales = {x for x in (1, 2, 7, 10, high, -1, -2, -7, low, low + 1) if x and low <= x <= high}
    offsets = sorted({0, 1, 5, high, low, low // 2, -1})
    for scale, offset in some(itertools.product(sorted(scales), offsets)):
        if not low <= offset <= high:
            continue
        spec = spec_of(dtype, (1,))
        config = {"scale": scale, "offset": offset}
        codec = get_codec({"name": "scale_offset", "configuration": config}).bind(spec)
        check(codec, values, spec.dtype.itemsize, None, spec, spec, may_refuse=True)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float8_e4m3fn", "float8_e5m2"])
def test_scales_and_offsets_of_floats(dtype):
    spec = spec_of(dtype, (1,))
    values = (
        values_of(spec.dtype, seed=6)
        if dtype[5] != "8"
        else np.arange(256, dtype="u1").view(spec.dtype)
    )
    for scale, offset in [(1, 0), (10, 0.5), (-0.125, 3), (7, -100.0)]:
        config = {"scale": scale, "offset": offset}
        codec = get_codec({"name": "scale_offset", "configuration": config}).bind(spec)
        check(codec, values, spec.dtype.itemsize, None, spec, spec)


# -- cast_value -----------------------------------------------------------------------------------


def cast_codec(source, target, rounding, mode, pairs):
    maps = None if pairs is None else (None, pairs)
    return CastValueCodec(parse_v3(source), rounding, mode, maps).bind(spec_of(target, (1,)))


def maps_of(source, target):
    """Pairs that are legal for the two types: of overlapping and repeated keys, zeros and NaNs."""
    yield None
    key = [3, 1, 3, 0] if "int" in source else [1.5, "NaN", -0.0, "Infinity", "-Infinity", "NaN"]
    result = [0, 1, 1, 3] if "int" in target else ["NaN", "-Infinity", -0.0, 0.5]
    yield tuple(itertools.islice(zip(key, itertools.cycle(result), strict=False), 6))
    if "int" in source:
        info = np.iinfo(source)
        yield ((int(info.max), 1), (int(info.min), 0))


def check_cast(source, target, rounding, mode, pairs, seed=7):
    codec = cast_codec(source, target, rounding, mode, pairs)
    spec = spec_of(target, (1,))
    encoded = replace(spec, data_type=codec.data_type)
    stored = codec.data_type.dtype
    if stored.itemsize == 1:
        values = np.arange(1 << codec.data_type.packed_bits, dtype="u1").view(stored)
    else:
        values = values_of(
            f"u{stored.itemsize}" if source == "bfloat16" else stored, 80, seed
        ).view(stored)
    dubious = None
    if (
        pairs is None
        and "float16" in (source, target)
        and source in ("float16", "float64")
        and target in FLOATS
    ):
        dubious = signalling(values)
    check(codec, values, spec.dtype.itemsize, dubious, spec, encoded, may_refuse=True)


def casts():
    for source, target in itertools.product([*NUMBERS, *SMALL], NUMBERS):
        for rounding, mode in itertools.product(ROUNDINGS, [None, "clamp", "wrap"]):
            if mode == "wrap" and "int" not in source:
                continue
            plain = source in NUMBERS
            for pairs in maps_of(source, target) if plain else [None]:
                yield source, target, rounding, mode, pairs


@pytest.mark.parametrize("part", range(4))
def test_casts_by_value(part):
    everything = list(casts())
    chosen = np.random.default_rng(part).choice(len(everything), examples(60), replace=False)
    for i in chosen.tolist():
        check_cast(*everything[i], seed=i)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_floats_rounded_to_narrower_ones(rounding):
    wide = [("float64", "float32"), ("float64", "float16"), ("float32", "float16")]
    for (source, target), mode in itertools.product(wide, [None, "clamp"]):
        check_cast(source, target, rounding, mode, None)


@pytest.mark.slow
@pytest.mark.parametrize("source", [*NUMBERS, *SMALL])
def test_all_casts_by_value(source):
    for case in casts():
        if case[0] == source:
            check_cast(*case)


# -- differences and bits -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "decoded"), [("int8", "int32"), (">u2", "uint64"), ("int64", "int16")]
)
def test_differences_of_format_3(stored, decoded):
    spec = spec_of(decoded, (5, 61))
    codec = get_codec({"name": "numcodecs.delta", "configuration": {"astype": stored}}).bind(spec)
    encoded = codec.encoded_spec(spec)
    array = random_array(encoded, seed=8)
    results = run(element_step(codec, spec, encoded), [array.tobytes()], [spec.nbytes])
    assert results == [(OK, codec.decode(array, spec).tobytes())]


BITS = [
    ("bool", None, None), ("int2", None, None), ("uint4", None, None), ("int4", 1, None),
    ("int4", 0, 2), ("int8", None, None), ("int16", 3, 12), ("uint16", 4, 15),
    ("int32", 0, 30), ("uint32", 31, 31),
    ("int64", 1, 62), ("uint64", None, None), ("float16", 6, None), ("float32", 5, 31),
    ("float64", 11, 63), ("float6_e2m3fn", None, None), ("bfloat16", 1, 15), ("complex64", 3, 29),
    ("complex128", None, None), ("complex_float4_e2m1fn", None, None),
    ("complex_bfloat16", 2, None),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "first", "last"), BITS)
@pytest.mark.parametrize("padding", ["none", "first_byte", "last_byte"])
def test_packed_bits(dtype, first, last, padding):
    for shape in [(1,), (3,), (4, 2), (7, 29)]:
        spec = spec_of(dtype, shape)
        codec = PackBitsCodec(padding, first, last).bind(spec)
        data = bytearray(codec.encode(random_array(spec, seed=shape[0]), spec))
        step = element_step(codec, spec)
        assert run(step, [data], [spec.nbytes]) == [(OK, codec.decode(data, spec).tobytes())]
        if padding != "none":
            data[0 if padding == "first_byte" else -1] ^= 9
            with pytest.raises(CodecError):
                codec.decode(data, spec)
            assert run(step, [data], [spec.nbytes])[0][0] == BAD_VALUE


def test_booleans_packed_as_numcodecs_does():
    for n in (1, 8, 13, 5000):
        spec = spec_of("bool", (n,))
        codec = get_codec({"name": "numcodecs.packbits", "configuration": {}}).bind(spec)
        encoded = codec.encoded_spec(spec)
        data = codec.encode(random_array(spec, seed=n), spec)
        data[-1] |= (1 << -n % 8) - 1  # bits left over may be any
        for stored in (codec, from_v2({"id": "packbits"})):
            step = element_step(stored, spec, encoded)
            assert run(step, [data.tobytes()], [n]) == [(OK, codec.decode(data, spec).tobytes())]
        data[0] ^= 3
        assert run(element_step(codec, spec, encoded), [data.tobytes()], [n])[0][0] == BAD_VALUE
        with pytest.raises(CodecError):
            codec.decode(data, spec)


@pytest.mark.parametrize(
    "dtype",
    ["int2", "uint2", "int4", "uint4", "float4_e2m1fn", "float6_e3m2fn", "complex_float6_e2m3fn"],
)
def test_upper_bits_of_narrow_types_are_cleared(dtype):
    spec = spec_of(dtype, (128,))
    codec = BytesCodec().bind(spec)
    data = bytes(range(256))[: spec.nbytes]
    step = element_step(codec, spec)
    assert step.kernel == "mask_bytes"
    assert run(step, [data], [spec.nbytes]) == [(OK, codec.decode(data, spec).tobytes())]


# -- decisions ------------------------------------------------------------------------------------


def test_decoding_that_changes_nothing():
    spec = spec_of("float32", (4,))
    bits = get_codec({"name": "bitround", "configuration": {"keepbits": 5}}).bind(spec)
    quantize = get_codec({"name": "numcodecs.quantize", "configuration": {"digits": 2}}).bind(spec)
    steps = [
        element_step(bits, spec, spec),
        element_step(quantize, spec, spec),
        element_step(from_v2({"id": "bitround", "keepbits": 3})),
        element_step(from_v2({"id": "quantize", "digits": 3, "dtype": ">f8"})),
        element_step(BytesCodec("big").bind(spec), spec),
        element_step(BytesCodec().bind(spec_of("bool", (4,))), spec_of("bool", (4,))),
    ]
    assert [step.kernel for step in steps] == [None] * 6
    assert [step.stored_nbytes(step.counts(np.array([16])))[0] for step in steps] == [16] * 6


def array_codec(name, dtype, **configuration):
    spec = spec_of(dtype, (4,))
    codec = get_codec({"name": name, "configuration": configuration}).bind(spec)
    return codec, spec, codec.encoded_spec(spec)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"id": "delta", "dtype": "<f8"}, "sums of float64"),
        ({"id": "delta", "dtype": "<i4", "astype": "<f4"}, "sums of float32"),
        ({"id": "delta", "dtype": "<i8", "astype": "<u8"}, "as floats"),
        ({"id": "delta", "dtype": "<c8"}, "complex64"),
        ({"id": "astype", "encode_dtype": "<c8", "decode_dtype": "<c16"}, "knows complex64"),
        ({"id": "astype", "encode_dtype": "<f4", "decode_dtype": "<g"}, "no kernel knows"),
        ({"id": "astype", "encode_dtype": "<i8", "decode_dtype": "<M8[s]"}, "datetime64"),
        ({"id": "astype", "encode_dtype": "<i8", "decode_dtype": "|S8"}, "S8"),
        ({"id": "fixedscaleoffset", "scale": 2, "offset": 0, "dtype": "<f2"}, "in float16"),
        ({"id": "fixedscaleoffset", "scale": 2, "offset": 0, "dtype": "<c8"}, "complex64"),
        ({"id": "fixedscaleoffset", "scale": 0, "offset": 0, "dtype": "<f4"}, "scale 0"),
        ({"id": "fixedscaleoffset", "scale": 1e-60, "offset": 0, "dtype": "<f4"}, "scale 1e-60"),
        ({"id": "fixedscaleoffset", "scale": 1, "offset": 1e60, "dtype": "<f4"}, "offset 1e+60"),
        ({"id": "fixedscaleoffset", "scale": 10**400, "offset": 0, "dtype": "<f8"}, "too large"),
        ({"id": "fixedscaleoffset", "scale": "2", "offset": 0, "dtype": "<f8"}, "divide"),
        ({"id": "shuffle", "elementsize": 4}, "no kernel decodes it"),
    ],
)  # fmt: skip
def test_filters_that_the_host_decodes(config, why):
    codec = from_v2(config)
    assert element_step(codec) is None
    assert why in reason(codec)


@pytest.mark.parametrize(
    ("name", "dtype", "configuration", "why"),
    [
        ("scale_offset", "float16", {"scale": 2}, "computes in float16"),
        ("scale_offset", "bfloat16", {"scale": 2}, "computes in bfloat16"),
        ("scale_offset", "float32", {"offset": "NaN"}, "offset nan"),
        ("scale_offset", "float64", {"scale": "Infinity"}, "scale inf"),
        ("cast_value", "bfloat16", {"data_type": "float32"}, "no kernel knows bfloat16"),
        ("cast_value", "float8_e5m2", {"data_type": "int16"}, "no kernel knows float8_e5m2"),
        ("transpose", "int8", {"order": [0]}, "no kernel decodes it"),
    ],
)  # fmt: skip
def test_array_codecs_that_the_host_decodes(name, dtype, configuration, why):
    codec = array_codec(name, dtype, **configuration)
    assert element_step(*codec) is None
    assert why in reason(*codec)


def test_long_maps_are_for_the_host():
    pairs = tuple((i, i + 1) for i in range(65))
    for n, device in [(64, True), (65, False)]:
        codec = cast_codec("int16", "float32", "nearest-even", None, pairs[:n])
        spec = spec_of("float32", (1,))
        step = element_step(codec, spec, replace(spec, data_type=codec.data_type))
        assert (step is not None) == device


def test_classes_derived_from_codecs_are_not_taken_for_them():
    class Other(DeltaCodec):
        pass

    spec = spec_of("int16", (3,))
    codec = Other.from_config({}).bind(spec)
    assert element_step(codec, spec, spec) is None
    assert element_step(DeltaCodec.from_config({}).bind(spec), spec, spec) is not None


def test_decoded_sizes_of_filters():
    codec = from_v2({"id": "delta", "dtype": "<i4", "astype": "<i2"})
    assert element_step(codec, size=Size(8)) is not None
    assert "6 bytes" in reason(codec, size=Size(6))
    assert "not known" in reason(codec, size=Size(8, exact=False))
    assert reason(codec, size=Size(8)) == ""


def test_what_the_host_must_decode_each_time_is_in_the_table():
    codec = from_v2(
        {"id": "fixedscaleoffset", "scale": 1, "offset": -3, "dtype": "<u2", "astype": "|u1"}
    )
    step = element_step(codec)
    values = np.arange(256, dtype="u1")
    results = run(step, [values[:3].tobytes(), values[3:].tobytes()], [6, 506])
    assert results[0][0] == BAD_VALUE
    assert results[1] == (OK, np.arange(253, dtype="u2").tobytes())
