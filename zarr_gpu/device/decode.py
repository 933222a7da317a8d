"""From stored bytes to decoded bytes: queues the steps of a program for all rows of a wave.

Works on columns of addresses and sizes. Header walks look at the bytes while they are still in
host memory; rows that they find unfit for the device are left to the host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zarr_gpu._types import Bools, Int64, NDArray, UInt64
from zarr_gpu.codecs.blosc import HEADER_NBYTES
from zarr_gpu.device import assemble, blosc, elements, frames, lz, pages
from zarr_gpu.device.frames import StreamTable
from zarr_gpu.device.program import CHECKSUMS, Check, Elements, Program, Step, Unshuffle
from zarr_gpu.device.wave import MAX_BLOCKS, Wave

EMPTY = {
    "zstd": bytes.fromhex("28b52ffd2000010000"),
    "deflate": bytes.fromhex("0300"),
    "gzip": bytes.fromhex("1f8b080000000000000303000000000000000000"),
    "gdeflate": b"\x03" + bytes(131),
}
"""A stream of no bytes in each format that nvCOMP may only be given when it is valid: takes the
place of one whose checksum is wrong."""
_ALIGNMENT = {"deflate": 4, "gdeflate": 4}  # of nvCOMP's input
_CONTENT_SUMS = {"gzip": CHECKSUMS["numcodecs.crc32"], "deflate": CHECKSUMS["numcodecs.adler32"]}
_XXH64_STREAMS = 8  # of a warp
_INNER = ("blosclz", "lz4", "snappy", "zlib", "zstd")  # numbers in a Blosc header
_MODES = np.array([assemble.UNFILTERED, assemble.BYTES, assemble.PLAIN], np.int32)
_FORMATS = {
    "zstd": ("zstd", frames.zstd),
    "gzip": ("gzip", frames.gzip),
    "numcodecs.zlib": ("deflate", frames.zlib),
    "numcodecs.lz4": ("lz4", frames.lz4),
    "zarrs.gdeflate": ("gdeflate", pages.gdeflate),
}
"""Codec -> format of its streams, and the walk that finds them."""


@dataclass(slots=True)
class Sources:
    """Where the decoded bytes of ``n`` rows are on the device; Blosc rows may still be filtered.

    ``rows`` has the columns of :data:`~zarr_gpu.device.assemble.ROW` that describe a source,
    ``planes`` the addresses of its splits. Rows that are ``bad`` are left to the host.
    """

    rows: NDArray
    nbytes: Int64
    bad: Bools
    planes: UInt64 | None = None

    @property
    def ptr(self) -> UInt64:
        column: UInt64 = self.rows["src"]
        return column


class Decoder:
    """Queues the decoding of rows whose stored bytes are ``data`` on the host and on the device.

    ``number`` are the numbers of these rows in the wave, for what it reports.
    """

    def __init__(
        self,
        wave: Wave,
        program: Program,
        data: NDArray,
        address: int,
        number: Int64,
        *,
        trusted: bool,
    ) -> None:
        self._wave = wave
        self._program = program
        self._data = data
        self._address = np.uint64(address)
        self._number = number
        self._safe = trusted or program.checked

    def decode(self, offset: Int64, nbytes: Int64) -> Sources:
        """Rows at ``offset`` in the data, as stored."""
        program = self._program
        offset, nbytes = offset.copy(), nbytes.copy()
        for check in program.outer:
            self._verify(check, self._at(offset), nbytes)
            offset += 4 if check.at_start else 0
            nbytes = np.maximum(nbytes - 4, 0)
        rows = np.zeros(len(offset), assemble.ROW)
        rows["src"] = self._at(offset)
        sources = Sources(rows, nbytes, np.zeros(len(offset), np.bool_))
        if program.compressor is not None:
            expected = np.full(len(offset), program.unpacked, np.int64)
            if program.compressor.name == "blosc":
                self._blosc(sources, offset, expected)
            else:
                self._chunks(program.compressor.name, sources, offset, expected)
            sources.nbytes = expected
        for step in program.inner:
            self._step(step, sources)
        return sources

    def _at(self, offset: Int64) -> UInt64:
        return self._address + offset.astype(np.uint64)

    def _room(self, nbytes: Int64) -> UInt64:
        """Addresses of new buffers of these sizes, 16-byte aligned."""
        starts = np.zeros(len(nbytes) + 1, np.int64)
        np.cumsum((nbytes + 15) // 16 * 16, out=starts[1:])
        return np.uint64(self._wave.scratch(int(starts[-1]))) + starts[:-1].astype(np.uint64)

    # -- compressors ------------------------------------------------------------------------------

    def _chunks(self, name: str, sources: Sources, offset: Int64, expected: Int64) -> None:
        """Chunks that are one stream each, or several one behind the other."""
        form, walk = _FORMATS[name]
        table, sources.bad = walk(self._data, offset, sources.nbytes, expected)
        target = self._room(expected)
        sources.rows["src"] = target
        self._decompress(form, table, target[table.row] + table.out_offset.astype(np.uint64))

    def _blosc(self, sources: Sources, offset: Int64, expected: Int64) -> None:
        """Containers: their streams are decoded, or left where they are when they are raw."""
        found = blosc.walk(self._data, offset, sources.nbytes, expected)
        sources.bad = found.bad
        rows = sources.rows
        for name in ("nbytes", "blocksize", "typesize", "splits"):
            rows[name] = getattr(found, name)
        rows["planes"] = found.first_stream[:-1]
        filtered = ~(found.stored | found.bad)
        rows["mode"] = np.where(filtered, _MODES[found.shuffle], assemble.PLAIN)
        rows["src"][found.stored] += np.uint64(HEADER_NBYTES)
        streams = found.streams
        planes = self._at(streams.offset)
        packed = ~found.raw
        bits = filtered & (found.shuffle == blosc.BITSHUFFLE)
        gathered = bits[streams.row]  # those of a chunk go one behind the other
        shuffled = self._room(np.where(bits, found.nbytes, 0))
        place = shuffled[streams.row] + streams.out_offset.astype(np.uint64)
        copied = found.raw & gathered
        self._wave.copy(planes[copied], place[copied], streams.nbytes[copied])
        planes[gathered] = place[gathered]
        apart = np.flatnonzero(packed & ~gathered)
        planes[apart] = self._room(streams.out_nbytes[apart])
        which = np.flatnonzero(packed)
        codec = found.codec[streams.row[which]]
        for number in np.unique(codec).tolist():
            some = which[codec == number]
            bad = self._inner(_INNER[number], streams.take(some), planes[some])
            sources.bad[bad] = True
        sources.planes = planes
        self._unshuffle_bits(sources, np.flatnonzero(bits), found, shuffled)

    def _unshuffle_bits(
        self, sources: Sources, rows: Int64, found: blosc.BloscTable, shuffled: UInt64
    ) -> None:
        """Undo the bit-shuffle of chunks, whose blocks lie one behind the other."""
        if not len(rows):
            return
        nbytes, blocksize = found.nbytes[rows], found.blocksize[rows]
        target = self._room(nbytes)
        blocks = -(-nbytes // blocksize)
        row = np.repeat(np.arange(len(rows)), blocks)
        number = np.arange(len(row)) - np.repeat(np.cumsum(blocks) - blocks, blocks)
        start = number * blocksize[row]
        self._wave.shuffle(
            "bit_unshuffle",
            shuffled[rows][row] + start.astype(np.uint64),
            target[row] + start.astype(np.uint64),
            np.minimum(blocksize[row], nbytes[row] - start),
            found.typesize[rows][row],
        )
        sources.rows["src"][rows] = target

    def _inner(self, cname: str, streams: StreamTable, target: UInt64) -> Int64:
        """Decode streams of one inner format; returns the rows that it cannot be done for."""
        if cname not in ("zlib", "zstd"):
            self._decompress(cname, streams, target)
            return np.empty(0, np.int64)
        form, walk = _FORMATS["zstd" if cname == "zstd" else "numcodecs.zlib"]
        if not (self._safe and self._wave.runtime.can_decompress(form)):
            return streams.row
        table, bad = walk(self._data, streams.offset, streams.nbytes, streams.out_nbytes)
        target = target[table.row] + table.out_offset.astype(np.uint64)
        self._decompress(form, replace(table, row=streams.row[table.row]), target)
        rows: Int64 = streams.row[bad]
        return rows

    def _decompress(self, form: str, table: StreamTable, target: UInt64) -> None:
        """Queue the decoder of a format; long streams start first."""
        if not len(table):
            return
        wave = self._wave
        order = frames.work_order(table)
        table, target = table.take(order), target[order]
        source = self._align(form, self._at(table.offset), table.nbytes)
        streams = wave.streams(source, table.nbytes, target, table.out_nbytes)
        number = wave.table(self._number[table.row].astype(np.int32))
        kernel = lz.DECODERS.get(form)  # safe for any input
        if kernel is not None:
            blocks, threads = lz.launch(kernel, streams.n)
            wave.launch(
                kernel, blocks, threads, streams.in_ptr, streams.in_nbytes, streams.out_ptr,
                streams.out_nbytes, streams.actual, streams.status, streams.n,
            )  # fmt: skip
        else:
            if self._program.checked:
                wave.guard(streams, number, EMPTY[form])
            wave.decompress(form, streams)
        wave.fold(streams.status, streams.n, number, streams.actual, streams.out_nbytes)
        self._verify_content(form, table, target)

    def _verify_content(self, form: str, table: StreamTable, target: UInt64) -> None:
        """Compare the checksums that streams carry, which decoders of the device may not do."""
        which, expected = frames.content_sums(form, self._data, table)
        n = len(which)
        if not n:
            return
        wave = self._wave
        ptr = wave.table(target[which])
        nbytes = wave.table(table.out_nbytes[which].astype(np.uint64))
        kind = _CONTENT_SUMS.get(form)
        if kind is None:
            words, sums = 2, wave.table(np.zeros(n, np.uint64))
            blocks = min(-(-n // _XXH64_STREAMS), MAX_BLOCKS)
            wave.launch("xxh64", blocks, 32, ptr, nbytes, sums, n)
        else:
            words, sums = 1, wave.table(np.zeros(n, np.uint32))
            wave.launch("checksum_make", min(n, MAX_BLOCKS), 256, ptr, nbytes, kind, sums, n)
        status = wave.table(np.zeros(n, np.int32))
        wave.each("compare_sums", n, sums, words, wave.table(expected), status, n)
        wave.fold(status, n, wave.table(self._number[table.row[which]].astype(np.int32)))

    def _align(self, form: str, source: UInt64, nbytes: Int64) -> UInt64:
        """Addresses of streams that the decoder of ``form`` accepts; copies those it would not."""
        alignment = _ALIGNMENT.get(form, 1)
        bad = np.flatnonzero(source % np.uint64(alignment))
        if not len(bad):
            return source
        copy = self._room(nbytes[bad])
        self._wave.copy(source[bad], copy, nbytes[bad])
        source = source.copy()
        source[bad] = copy
        return source

    # -- steps on decoded bytes -------------------------------------------------------------------

    def _step(self, step: Step, sources: Sources) -> None:
        self._lay_out(sources, step.swap if isinstance(step, Elements) else 1)
        if isinstance(step, Check):
            self._verify(step, sources.ptr, sources.nbytes)
            sources.rows["src"] += np.uint64(4 if step.at_start else 0)
        elif isinstance(step, Unshuffle):
            self._unshuffle(step, sources)
        else:
            self._elements(step, sources)
        sources.nbytes = np.full(len(sources.nbytes), step.nbytes, np.int64)

    def _verify(self, check: Check, ptr: UInt64, nbytes: Int64) -> None:
        wave, n = self._wave, len(ptr)
        status = wave.table(np.zeros(n, np.int32))
        wave.launch(
            "checksum_verify", min(n, MAX_BLOCKS), 256, wave.table(ptr.copy()),
            wave.table(nbytes.astype(np.uint64)), check.kind, int(check.at_start), status, n,
        )  # fmt: skip
        wave.fold(status, n, wave.table(self._number.astype(np.int32)))

    def _lay_out(self, sources: Sources, swap: int = 1) -> None:
        """Bring every row's bytes together, without Blosc's filters and in native order."""
        rows = sources.rows
        if swap == 1 and not rows["mode"].any() and not sources.bad.any():
            return
        word = swap
        if swap == 1:  # the kernel is fast where it moves whole elements
            sizes = np.unique(rows["typesize"][rows["mode"] != assemble.PLAIN]).tolist()
            word = sizes[0] if len(sizes) == 1 and sizes[0] in (2, 4, 8, 16) else 1
        if (sources.nbytes % word).any():
            word = 1
        target = self._room(sources.nbytes)
        table = assemble.flat_table(sources.ptr, target, sources.nbytes, word=word, swap=swap)
        for name in ("planes", "nbytes", "blocksize", "typesize", "splits", "mode"):
            table.rows[name] = rows[name]
        table = assemble.select(table, ~sources.bad)
        self._wave.assemble(assemble.simplify(table), sources.planes)
        sources.rows = np.zeros(len(rows), assemble.ROW)
        sources.rows["src"] = target
        sources.planes = None

    def _unshuffle(self, step: Unshuffle, sources: Sources) -> None:
        target = self._room(sources.nbytes)
        typesize = np.full(len(sources.nbytes), step.elementsize)
        self._wave.shuffle("byte_unshuffle", sources.ptr.copy(), target, sources.nbytes, typesize)
        sources.rows["src"] = target

    def _elements(self, step: Elements, sources: Sources) -> None:
        wave, n = self._wave, len(sources.nbytes)
        counts = np.full(n, step.count, np.int64)
        target = self._room(np.full(n, step.nbytes, np.int64))
        blocks, threads, first_tile = elements.launch(step.step, counts)
        status = wave.table(np.zeros(n, np.int32))
        table = wave.table(np.frombuffer(step.step.table or bytes(8), np.uint8))
        arguments: Any = step.step.arguments  # addresses that are not known yet
        wave.launch(
            str(step.step.kernel), blocks, threads,
            *arguments(
                wave.table(sources.ptr.copy()), wave.table(target), wave.table(counts),
                wave.table(first_tile), status, n, table,
            ),
        )  # fmt: skip
        wave.fold(status, n, wave.table(self._number.astype(np.int32)))
        sources.rows["src"] = target
