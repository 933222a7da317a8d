"""The binding of nvCOMP, against the real library as far as it answers without a device.

Headers of the wheel are the oracle for structures, constants and prototypes; the numbers of the
host queries were read from nvCOMP 6.0. Decoding itself needs a card.
"""

import ctypes
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from zarr_gpu.device import nvcomp
from zarr_gpu.device.nvcomp import CODECS, NvCompError, algorithm, load, status_text
from zarr_gpu.device.runtime import Streams
from zarr_gpu.errors import DeviceUnavailableError, LimitError, MissingDependencyError

SYMBOLS = {"zstd": "Zstd", "deflate": "Deflate", "gzip": "Gzip", "snappy": "Snappy"}
SYMBOLS |= {"lz4": "LZ4", "gdeflate": "Gdeflate"}
TABLE = Streams(
    n=3, in_ptr=4096, in_nbytes=4096, out_ptr=4096, out_nbytes=4096, actual=4096, status=4096,
    max_nbytes=65536, total_nbytes=3 * 65536,
)  # fmt: skip
"""Addresses that nothing may follow: only for calls that cannot reach a device."""


@pytest.fixture(scope="module")
def library():
    try:
        return load()
    except MissingDependencyError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"nvCOMP is not installed: {error}")


@pytest.fixture(scope="module")
def include(library):
    folder = Path(sys.modules["nvidia.libnvcomp"].__file__).parent / "include"
    if not folder.is_dir():
        pytest.skip("this installation of nvCOMP has no headers")
    return folder


@pytest.fixture(scope="module")
def no_driver():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    pytest.skip("there is a CUDA driver, which would follow the made-up addresses")


def header(include, codec):
    return (include / "nvcomp" / f"{codec}.h").read_text()


def constant(text, name):
    """Value of a ``static const size_t`` of a header."""
    value = (
        re.search(rf"{name} =\s*([^;]+);", text)[1].replace("(size_t)", "").replace("~0ull", "-1")
    )
    return eval(re.sub(r"(?<=[0-9A-Fa-f])(ULL|ull|UL|u)\b", "", value))


def test_version(library):
    assert library.version[0] == nvcomp.MAJOR
    assert library.cudart_version >= 12000


def test_library_is_loaded_once(library):
    assert load() is library


@pytest.mark.parametrize("codec", CODECS)
def test_prototypes_are_those_of_the_headers(include, codec):
    kinds = {
        ctypes.c_size_t: "size_t",
        ctypes.c_void_p: "pointer",
        nvcomp.Options: "options",
        ctypes.POINTER(ctypes.c_size_t): "pointer",
        ctypes.POINTER(nvcomp.Alignments): "pointer",
    }
    text = re.sub(r"/\*.*?\*/", "", header(include, codec), flags=re.DOTALL)
    for name, declared in nvcomp._FUNCTIONS.items():
        function = f"nvcompBatched{SYMBOLS[codec]}{name}"
        arguments = re.search(rf"nvcompStatus_t {function}\(([^)]*)\);", text)[1].split(",")
        found = [
            "pointer" if "*" in argument or "cudaStream_t" in argument
            else "options" if "Opts_t" in argument
            else argument.split()[0]
            for argument in arguments
        ]  # fmt: skip
        assert [kinds[kind] for kind in declared] == found, function


def test_statuses_are_those_of_the_header(include):
    text = header(include, "shared_types")
    for name, number in re.findall(r"(nvcomp(?:Success|Error\w*)) = (\d+),", text):
        assert f"({name})" in status_text(int(number))
    assert len(re.findall(r"nvcomp(?:Success|Error\w*) = \d+", text)) == len(nvcomp._STATUS) - 1


@pytest.mark.parametrize("codec", CODECS)
def test_largest_streams_are_those_of_the_headers(library, include, codec):
    text, symbol = header(include, codec), SYMBOLS[codec]
    kind = "NaiveDecompression" if codec == "gzip" else "Decompression"
    assert library.decompress_max_nbytes(codec) == constant(
        text, f"nvcomp{symbol}{kind}MaxAllowedChunkSize"
    )
    largest = constant(text, f"nvcomp{symbol}CompressionMaxAllowedChunkSize")
    if codec == "zstd":  # what the encoder's documentation says is less
        assert "must not exceed 16 MB" in text
        largest = min(largest, 16 << 20)
    assert library.compress_max_nbytes(codec) == largest


PROGRAM = """
#include <stddef.h>
#include <stdio.h>
#include "nvcomp.h"
static void show(const char *name, const void *value, size_t nbytes) {
    printf("%s ", name);
    for (size_t i = 0; i < nbytes; i++) printf("%02x", ((const unsigned char *)value)[i]);
    printf("\\n");
}
int main(void) {
    printf("status %zu\\n", sizeof(nvcompStatus_t));
    printf("backend %d\\n", NVCOMP_DECOMPRESS_BACKEND_CUDA);
    printf("properties %zu %zu %zu\\n", sizeof(nvcompProperties_t),
           offsetof(nvcompProperties_t, version), offsetof(nvcompProperties_t, cudart_version));
    printf("alignments %zu %zu %zu %zu\\n", sizeof(nvcompAlignmentRequirements_t),
           offsetof(nvcompAlignmentRequirements_t, input),
           offsetof(nvcompAlignmentRequirements_t, output),
           offsetof(nvcompAlignmentRequirements_t, temp));
#define FORMAT(X)                                                                       \\
    nvcompBatched##X##DecompressOpts_t d##X = nvcompBatched##X##DecompressDefaultOpts;  \\
    d##X.backend = NVCOMP_DECOMPRESS_BACKEND_CUDA;                                      \\
    show(#X " decompress", &d##X, sizeof d##X);                                         \\
    show(#X " compress", &nvcompBatched##X##CompressDefaultOpts,                        \\
         sizeof nvcompBatched##X##CompressDefaultOpts);
    FORMAT(Zstd) FORMAT(Deflate) FORMAT(Gzip) FORMAT(Snappy) FORMAT(LZ4) FORMAT(Gdeflate)
    return 0;
}
"""


def test_structures_are_those_of_a_c_compiler(library, include, tmp_path):
    """Sizes, offsets, and the bytes of the default options with the CUDA backend chosen."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "show.c").write_text(PROGRAM)
    command = [compiler, "-I", include, "-w", "-o", "show", "show.c"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "show"], capture_output=True, text=True, check=True)

    def line(name, cls):
        offsets = [getattr(cls, field).offset for field, _ in cls._fields_]
        return " ".join(map(str, [name, ctypes.sizeof(cls), *offsets]))

    expected = [f"status {ctypes.sizeof(ctypes.c_int)}", f"backend {nvcomp._CUDA_BACKEND}"]
    expected += [line("properties", nvcomp.Properties), line("alignments", nvcomp.Alignments)]
    for codec, symbol in SYMBOLS.items():
        bound = library._codecs[codec]
        expected.append(f"{symbol} decompress {bytes(bound.decompress_options).hex()}")
        expected.append(f"{symbol} compress {bytes(bound.compress_options(-1)).hex()}")
    assert done.stdout.splitlines() == expected
    assert ctypes.sizeof(nvcomp.Options) == 64


@pytest.mark.parametrize(
    "codec, decompress, compress",
    [
        ("zstd", (1, 1, 8), (4, 1, 1)),
        ("deflate", (4, 1, 1), (1, 8, 8)),
        ("gzip", (1, 1, 1), (1, 8, 8)),
        ("snappy", (1, 1, 1), (1, 1, 1)),
        ("lz4", (1, 1, 1), (1, 1, 2)),
        ("gdeflate", (4, 1, 1), (1, 4, 8)),
    ],
)
def test_alignments(library, codec, decompress, compress):
    assert library.decompress_alignment(codec) == decompress
    assert library.compress_alignment(codec) == compress


@pytest.mark.parametrize("n, nbytes", [(1, 1), (1, 1 << 20), (100, 65536), (37, 300_000)])
def test_only_zstd_needs_temporary_memory_to_decode(library, n, nbytes):
    total = n * nbytes
    blocks = max(n, total // (128 << 10))
    found = {codec: library.decompress_temp_nbytes(codec, n, nbytes, total) for codec in CODECS}
    zstd = found.pop("zstd")
    assert set(found.values()) == {0}
    # The figures of 6.0; another version may need more, which is why it is asked.
    if library.version[:2] == (6, 0):
        assert abs(zstd - (3 * total + 6936 * blocks)) <= 6936


@pytest.mark.parametrize(
    "codec, of_64_kib, of_1_mib",
    [
        ("zstd", 65_547, 1_048_634),
        ("deflate", 148_256, 2_371_616),
        ("gzip", 148_328, 2_372_888),
        ("snappy", 76_490, 1_223_370),
        ("lz4", 65_800, 1_052_696),
        ("gdeflate", 131_360, 2_097_440),
    ],
)
def test_largest_outputs(library, codec, of_64_kib, of_1_mib):
    if library.version[:2] == (6, 0):
        assert library.compress_bound(codec, 1 << 16) == of_64_kib
        assert library.compress_bound(codec, 1 << 20) == of_1_mib
    assert library.compress_bound(codec, 1 << 16) >= 1 << 16


def test_temporary_memory_to_encode_grows_with_the_level(library):
    sizes = [
        library.compress_temp_nbytes("deflate", 10, 65536, 655_360, level) for level in (0, 1, 9)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]


def test_levels_become_algorithms_that_the_library_knows(library):
    assert {algorithm(level) for level in range(-3, 30)} == {0, 1, 2, 4, 5}
    for level in range(-1, 13):
        assert library.compress_temp_nbytes("gzip", 1, 65536, 65536, level) > 0


@pytest.mark.parametrize("codec", ["zstd", "gdeflate"])
def test_the_library_refuses_the_hardware_backend_where_there_is_none(library, codec):
    bound = library._codecs[codec]
    out = nvcomp.Alignments()
    assert bound.decompress_alignments(bound.decompress_options, out) == 0
    for backend in (1, 3):
        assert bound.decompress_alignments(nvcomp._options(backend), out) == 10


def test_refusals_name_the_call_and_the_reason(library, monkeypatch):
    bound = library._codecs["zstd"]
    monkeypatch.setattr(bound, "decompress_options", nvcomp._options(1))
    calls = [
        lambda: library.decompress_alignment("zstd"),
        lambda: library.decompress_temp_nbytes("zstd", 1, 1, 1),
        lambda: library.decompress("zstd", TABLE, 4096, 1 << 40, 0),
    ]
    for call in calls:
        with pytest.raises(NvCompError, match=r"nvCOMP: .*zstd: invalid value") as caught:
            call()
        assert caught.value.status == 10
    monkeypatch.setattr(nvcomp, "algorithm", lambda level: 6)
    with pytest.raises(NvCompError, match="not supported") as caught:
        library.compress_alignment("deflate")
    assert caught.value.status == 11
    with pytest.raises(NvCompError, match=r"largest output of deflate"):
        library.compress_bound("deflate", 10)
    with pytest.raises(NvCompError, match=r"temporary memory to compress deflate"):
        library.compress_temp_nbytes("deflate", 1, 10, 10)


@pytest.mark.parametrize("codec", CODECS)
def test_without_a_driver_calls_fail_and_do_not_crash(library, no_driver, codec):
    temp = 1 << 40
    with pytest.raises(DeviceUnavailableError, match=f"decompress {codec}: CUDA error"):
        library.decompress(codec, TABLE, 4096, temp, 0)
    with pytest.raises(DeviceUnavailableError, match=f"compress {codec}: CUDA error"):
        library.compress(codec, TABLE, 4096, temp, 0)


def test_without_a_driver_the_query_for_zstd_fails(library, no_driver):
    with pytest.raises(DeviceUnavailableError, match="temporary memory to compress zstd"):
        library.compress_temp_nbytes("zstd", 1, 65536, 65536)


@pytest.mark.parametrize("codec", CODECS)
def test_no_streams_are_no_call(library, codec):
    empty = Streams(*[0] * 9)
    library.decompress(codec, empty, 0, 0, 0)
    library.compress(codec, empty, 0, 0, 0)


@pytest.mark.parametrize("codec", CODECS)
def test_streams_above_the_limits_are_refused(library, codec):
    def table(nbytes):
        return Streams(*[4096] * 7, max_nbytes=nbytes, total_nbytes=nbytes)

    most = library.decompress_max_nbytes(codec)
    assert library.decompress_temp_nbytes(codec, 1, most, most) >= 0
    with pytest.raises(LimitError, match=f"{most + 1} bytes is too large for {codec}"):
        library.decompress_temp_nbytes(codec, 1, most + 1, most + 1)
    with pytest.raises(LimitError):
        library.decompress(codec, table(most + 1), 0, 0, 0)
    most = library.compress_max_nbytes(codec)
    assert library.compress_bound(codec, most) > most
    for call in (
        lambda: library.compress_bound(codec, most + 1),
        lambda: library.compress_temp_nbytes(codec, 1, most + 1, most + 1),
        lambda: library.compress(codec, table(most + 1), 0, 0, 0),
    ):
        with pytest.raises(LimitError) as caught:
            call()
        assert caught.value.expected == most


def test_unknown_codecs(library):
    for call in (
        lambda: library.decompress("bzip2", TABLE, 0, 0, 0),
        lambda: library.compress("bzip2", TABLE, 0, 0, 0),
        lambda: library.decompress_alignment("bzip2"),
        lambda: library.compress_max_nbytes("bzip2"),
    ):
        with pytest.raises(ValueError, match=r"no codec 'bzip2' here, only \['zstd', 'deflate'"):
            call()


def test_arguments_arrive_in_the_order_of_the_prototypes(library, monkeypatch):
    """Tables with a value of its own in each column, seen from the other side of the call."""
    seen = []
    streams = Streams(
        n=2, in_ptr=11, in_nbytes=12, out_ptr=13, out_nbytes=14, actual=15, status=16,
        max_nbytes=17, total_nbytes=18,
    )  # fmt: skip
    bound = library._codecs["gzip"]
    for name in ("decompress", "compress"):
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, *getattr(bound, name).argtypes)
        # A copy: the structure lives on the stack of the call.
        callback = prototype(lambda *a: seen.append([*map(plain, a)]) or 0)
        monkeypatch.setattr(bound, name, callback)
    library.decompress("gzip", streams, 20, 21, 22)
    library.compress("gzip", streams, 20, 21, 22, level=9)
    decompress, compress = seen
    assert decompress == [11, 12, 14, 15, 2, 20, 21, 13, [2] + [0] * 15, 16, 22]
    assert compress == [11, 12, 17, 2, 20, 21, 13, 15, [5] + [0] * 15, 16, 22]


def test_arguments_of_the_queries_arrive_in_order(library, monkeypatch):
    seen = []

    def answer(n, max_nbytes, options, out, total_nbytes, stream):
        seen.append([n, max_nbytes, options.words[0], total_nbytes, stream])
        out[0] = 99
        return 0

    bound = library._codecs["gzip"]
    for name in ("decompress_temp", "compress_temp"):
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, *getattr(bound, name).argtypes)
        monkeypatch.setattr(bound, name, prototype(answer))
    assert library.decompress_temp_nbytes("gzip", 1, 2, 3, 4) == 99
    assert library.compress_temp_nbytes("gzip", 1, 2, 3, 9, 4) == 99
    assert seen == [[1, 2, 2, 3, 4], [1, 2, 5, 3, 4]]


def plain(value):
    return list(value.words) if isinstance(value, nvcomp.Options) else value


def test_statuses_without_a_name():
    assert status_text(0).startswith("fine")
    assert "cannot represent" in status_text(100)
    assert status_text(-1) == "unknown status -1"


# -- loading -----------------------------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch):
    """Nothing loaded yet, no wheel, and no library of the system."""
    nvcomp._load.cache_clear()
    monkeypatch.setitem(sys.modules, "nvidia.libnvcomp", None)

    def missing(name, *args):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(nvcomp.ctypes, "CDLL", missing)
    yield monkeypatch
    nvcomp._load.cache_clear()


def wheel(monkeypatch, load_library):
    module = types.ModuleType("nvidia.libnvcomp")
    module.load_library = load_library
    monkeypatch.setitem(sys.modules, "nvidia", types.ModuleType("nvidia"))
    monkeypatch.setitem(sys.modules, "nvidia.libnvcomp", module)


class Function:
    """Stands for a function of a library."""

    def __init__(self, call):
        self.call = call

    def __call__(self, *args):
        return self.call(*args)


def library_of(version, status=0):
    def properties(out):
        out.version, out.cudart_version = version, 13000
        return status

    return types.SimpleNamespace(nvcompGetProperties=Function(properties))


def test_a_missing_library_names_what_to_install(fresh):
    for _ in range(2):  # the failure is not remembered
        with pytest.raises(MissingDependencyError, match=r"pip install 'nvidia-libnvcomp-cu13>=6"):
            load()


def test_a_library_of_the_system_is_taken_without_a_wheel(fresh):
    opened = []
    fresh.setattr(nvcomp.ctypes, "CDLL", lambda name: opened.append(name) or library_of(5300))
    with pytest.raises(DeviceUnavailableError, match=r"5\.3\.0"):
        load()
    assert opened == ["libnvcomp.so.6"]


def test_a_wheel_whose_library_cannot_be_loaded_says_why(fresh):
    def broken():
        raise OSError("libnvcomp.so.6: wrong ELF class")

    wheel(fresh, broken)
    with pytest.raises(DeviceUnavailableError, match=r"not loadable: .*ELF class"):
        load()
    wheel(fresh, lambda: None)  # what the wheel answers when it finds nothing
    with pytest.raises(DeviceUnavailableError, match="cannot open shared object"):
        load()


@pytest.mark.parametrize("number, text", [(5300, "5.3.0"), (7012, "7.0.12"), (4204, "4.2.4")])
def test_other_major_versions_are_refused(fresh, number, text):
    wheel(fresh, lambda: library_of(number))
    with pytest.raises(DeviceUnavailableError, match=f"nvCOMP {text} is installed, but 6.x"):
        load()


def test_other_libraries_are_refused(fresh):
    wheel(fresh, types.SimpleNamespace)
    with pytest.raises(DeviceUnavailableError, match="not an nvCOMP library"):
        load()
    wheel(fresh, lambda: library_of(6000, status=10))
    with pytest.raises(DeviceUnavailableError, match="does not give its version"):
        load()
    wheel(fresh, lambda: library_of(6000))
    with pytest.raises(DeviceUnavailableError, match="incomplete"):
        load()


def test_importing_needs_no_library():
    code = "import sys, zarr_gpu.device.nvcomp; print([n for n in sys.modules if 'nvidia' in n])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
