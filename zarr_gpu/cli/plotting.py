# ruff: noqa: T201 - a command prints
"""``zarr-gpu plot``: a line or an image of a selection, as PNG or on the terminal.

At most as many elements are kept as the picture has points. Without ``--reduce`` only every n-th
element is looked at, so that a picture of a huge array takes few chunks; with it, all are read,
a piece at a time.
"""

from __future__ import annotations

import argparse
import math
import shutil
from itertools import product
from typing import TYPE_CHECKING, Any

from zarr_gpu.cli import common
from zarr_gpu.cli.selections import as_slice, parse_selection

if TYPE_CHECKING:
    from zarr_gpu._types import NDArray
    from zarr_gpu.array import Array
    from zarr_gpu.cli.main import Subparsers

PIECE_NBYTES = 64 << 20
"""Read at a time by ``--reduce``."""
PNG_POINTS = (1200, 1600)
"""Rows and columns of a PNG, at most."""
SHADES = " ░▒▓█"
_VIRIDIS = (
    (68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141), (39, 173, 129),
    (92, 200, 99), (170, 220, 50), (253, 231, 37),
)  # fmt: skip
"""Nine points of matplotlib's default colour map."""
LINES = 8
"""Drawn into one picture, at most."""
_GREY = ((0, 0, 0), (255, 255, 255))
_MISSING = (90, 0, 0)


def add_parsers(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = common.command(
        subparsers,
        "plot",
        _plot,
        "draw a line or an image of a selection, as PNG or on the terminal",
        """
        zarr-gpu plot survey.zarr/depth
        zarr-gpu plot survey.zarr/depth -s 3 --width 60
        zarr-gpu plot survey.zarr/depth -o depth.png --range 0,1600
        """,
        more="Axes before the last two take their first element unless selected. Large selections "
        "are thinned out (every n-th element), or reduced block by block with --reduce.",
    )
    common.add_place(parser)
    parser.add_argument("-s", "--select", metavar="SELECTION", default="...", help="0,:,::2")
    parser.add_argument("-o", "--output", metavar="PNG", help="write a file (extra plot)")
    parser.add_argument("--range", metavar="LOW,HIGH", help="of values; default: 1st to 99th %%")
    parser.add_argument(
        "--reduce", choices=["mean", "min", "max"], help="of all elements of a point"
    )
    parser.add_argument("--width", type=int, help="of the terminal's picture, in letters")
    parser.add_argument("--height", type=int, help="in lines")
    parser.add_argument(
        "--cmap", default="viridis", help="of the PNG; grey or viridis on terminals"
    )
    parser.add_argument("--line", action="store_true", help="lines of the rows instead of an image")
    common.add_common(parser, document=False)


def _plot(args: argparse.Namespace) -> int:
    array = common.open_array(args, args.path, device="cpu")
    if array.dtype.kind not in "biufcmM" and not _is_number(array):
        raise ValueError(f"elements of {array.dtype} are no numbers to draw")
    items = chosen(parse_selection(args.select), array.shape)
    if args.line:
        items = _few_rows(items)
    lines, columns = _room(args)
    wide = not args.line and sum(isinstance(item, range) for item in items) == 2
    most = PNG_POINTS if args.output else ((2 * lines, columns) if wide else (1 << 30, 2 * columns))
    values, steps = sampled(array, items, most, args.reduce)
    low, high = _limits(values, args.range)
    if args.output:
        _draw(args, array, values, steps, low, high)
        common.say(args, f"{values.shape} of {array.shape} -> {args.output}")
        return common.OK
    print(_title(args, array, values, steps, low, high))
    if values.ndim == 2 and not args.line:
        colours = common.colours()
        palette = _GREY if args.cmap.lower() in ("grey", "gray") else _VIRIDIS
        text = image(values, low, high, palette) if colours else shades(values, low, high)
    else:
        rows = values if values.ndim == 2 else values.reshape(1, -1)
        text = braille(rows[:LINES], low, high, columns, lines)
    print(text)
    return common.OK


def _few_rows(items: list[Any]) -> list[Any]:
    """Of two ranges the first cut to as many rows as are drawn as lines."""
    ranges = [d for d, item in enumerate(items) if isinstance(item, range)]
    if len(ranges) < 2:
        return items
    return [item[:LINES] if d == ranges[0] else item for d, item in enumerate(items)]


def _is_number(array: Array) -> bool:
    return array.dtype.type.__module__.startswith("ml_dtypes")


def _room(args: argparse.Namespace) -> tuple[int, int]:
    size = shutil.get_terminal_size((80, 24))
    return max(1, args.height or size.lines - 3), max(1, args.width or size.columns)


def chosen(selection: Any, shape: tuple[int, ...]) -> list[Any]:
    """An index or a range for each axis, ranges for two of them at most: the last ones.

    >>> chosen((..., slice(2, 8)), (3, 4, 10))
    [0, range(0, 4), range(2, 8)]
    """
    items = list(selection) if isinstance(selection, tuple) else [selection]
    missing = len(shape) - sum(item is not ... for item in items)
    if missing < 0:
        raise ValueError(f"{len(items)} indices for an array of {len(shape)} axes")
    at = items.index(...) if ... in items else len(items)
    given = [item for item in items if item is not ...]
    full: list[Any] = given[:at] + [None] * missing + given[at:]
    out: list[Any] = []
    free = sum(not isinstance(item, int) for item in full)
    for item, n in zip(full, shape, strict=True):
        if isinstance(item, int):
            if not -n <= item < n:
                raise ValueError(f"index {item} is out of bounds for an axis of {n}")
            out.append(item % n)
        elif item is None and free > 2 and n:
            out.append(0)
            free -= 1
        elif item is None or isinstance(item, slice):
            out.append(range(*(item or slice(None)).indices(n)))
        else:
            raise ValueError(f"{item!r} cannot be drawn: give indices and slices")
    if sum(isinstance(item, range) for item in out) > 2:
        raise ValueError("more than two axes are left: give an index for the others, as in -s 0,0")
    return out


def sampled(
    array: Array, items: list[Any], most: tuple[int, int], reduce: str | None
) -> tuple[NDArray, list[int]]:
    """The values to be drawn as floats, and how many elements one of them stands for, by axis."""
    import numpy as np

    ranges = [item for item in items if isinstance(item, range)]
    room = most[-len(ranges) :] if ranges else ()
    steps = [max(1, -(-len(r) // n)) for r, n in zip(ranges, room, strict=True)]
    if reduce is None:
        thin = iter([r[::step] for r, step in zip(ranges, steps, strict=True)])
        index = tuple(as_slice(next(thin)) if isinstance(i, range) else i for i in items)
        return numbers(np.asarray(array[index])), steps
    return _reduced(array, items, steps, reduce), steps


def numbers(values: NDArray) -> NDArray:
    """As floats; missing dates are NaN, complex numbers their absolute values."""
    import numpy as np

    if values.dtype.kind in "mM":
        out = values.astype(np.int64).astype(np.float64)
        out[np.isnat(values)] = np.nan
        return out
    if values.dtype.kind == "c":
        return np.abs(values).astype(np.float64)
    return values.astype(np.float64)


def _reduced(array: Array, items: list[Any], steps: list[int], how: str) -> NDArray:
    """Block by block; NaNs count for nothing."""
    import numpy as np

    ranges = [item for item in items if isinstance(item, range)]
    if not ranges:
        return numbers(np.asarray(array[tuple(items)]))
    shape = tuple(-(-len(r) // step) for r, step in zip(ranges, steps, strict=True))
    out = np.full(shape, np.nan)
    room = max(1, PIECE_NBYTES // (max(1, array.itemsize) * math.prod(steps)))
    per = [1] * len(shape)
    for axis in range(len(shape) - 1, -1, -1):
        per[axis] = max(1, min(shape[axis], room))
        room //= per[axis]
    for where in product(*(range(0, n, m) for n, m in zip(shape, per, strict=True))):
        parts = [
            r[first * step : (first + m) * step]
            for r, first, m, step in zip(ranges, where, per, steps, strict=True)
        ]
        index = iter(parts)
        selection = tuple(as_slice(next(index)) if isinstance(i, range) else i for i in items)
        region = tuple(slice(first, first + m) for first, m in zip(where, per, strict=True))
        out[region] = _points(numbers(np.asarray(array[selection])), steps, how)
    return out


def _points(values: NDArray, steps: list[int], how: str) -> NDArray:
    """One number of each block of ``steps`` elements."""
    import numpy as np

    join = {"mean": np.add, "min": np.fmin, "max": np.fmax}[how]
    good = ~np.isnan(values)
    values = np.where(good, values, {"mean": 0.0, "min": np.inf, "max": -np.inf}[how])
    count = good.astype(np.int64)
    for axis, step in enumerate(steps):
        cuts = np.arange(0, values.shape[axis], step)
        values = join.reduceat(values, cuts, axis=axis)
        count = np.add.reduceat(count, cuts, axis=axis)
    if how == "mean":
        values = values / np.maximum(count, 1)
    found: NDArray = np.where(count > 0, values, np.nan)
    return found


def _limits(values: NDArray, text: str | None) -> tuple[float, float]:
    import numpy as np

    if text is not None:
        try:
            low, high = (float(part) for part in text.split(","))
        except ValueError:
            raise ValueError(f"--range {text!r}: expected two numbers, as in 0,1.5") from None
        if not low < high or not math.isfinite(high - low):
            raise ValueError(f"--range {text!r}: the first number has to be the smaller one")
        return low, high
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = (float(q) for q in np.quantile(finite, [0.01, 0.99]))
    if values.ndim < 2 or low == high:
        low, high = float(finite.min()), float(finite.max())
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _title(
    args: argparse.Namespace,
    array: Array,
    values: NDArray,
    steps: list[int],
    low: float,
    high: float,
) -> str:
    import numpy as np

    bad = int(np.count_nonzero(~np.isfinite(values)))
    every = "" if max(steps, default=1) == 1 else f", {args.reduce or 'one'} of {steps}"
    missing = f", {bad} not finite" if bad else ""
    shape = "x".join(map(str, array.shape))
    return f"{args.path} {array.dtype} {shape}{every}: {low:g} to {high:g}{missing}"


# -- PNG ------------------------------------------------------------------------------------------


def _draw(
    args: argparse.Namespace,
    array: Array,
    values: NDArray,
    steps: list[int],
    low: float,
    high: float,
) -> None:
    try:
        import matplotlib as mpl
    except ImportError:
        from zarr_gpu.errors import MissingDependencyError

        raise MissingDependencyError(
            "PNG files need the package matplotlib: pip install 'zarr-gpu[plot]'"
        ) from None
    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    from zarr_gpu.tools.layouts import names_of

    figure, axis = plt.subplots(figsize=(9, 6), layout="constrained")
    ranges = chosen_ranges(args, array)
    names = [n or f"axis {d}" for d, n in enumerate(names_of(array))]
    labels = [names[d] for d, _ in ranges]
    units = array.attrs.asdict().get("units")
    label = f"{array.basename or args.path}" + (f" [{units}]" if units else "")
    if values.ndim == 2 and not args.line:
        rows, columns = (r for _, r in ranges)
        cmap = plt.get_cmap({"grey": "gray"}.get(args.cmap, args.cmap)).with_extremes(bad="#5a0000")
        extent = (columns.start, columns.stop, rows.stop, rows.start)
        shown = axis.imshow(
            np.ma.masked_invalid(values), cmap=cmap, vmin=low, vmax=high, extent=extent,
            aspect="auto", interpolation="nearest",
        )  # fmt: skip
        figure.colorbar(shown, ax=axis, label=label, extend="both")
        axis.set_xlabel(labels[1])
        axis.set_ylabel(labels[0])
    else:
        last = ranges[-1][1] if ranges else range(1)
        step = steps[-1] if steps else 1
        for i, row in enumerate(values.reshape(-1, values.shape[-1] if values.ndim else 1)[:8]):
            axis.plot(np.asarray(last[::step]), row, lw=1, label=str(i))
        axis.set_xlabel(labels[-1] if labels else "")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axis.set_title(_title(args, array, values, steps, low, high), fontsize=9)
    figure.savefig(args.output, dpi=120)
    plt.close(figure)


def chosen_ranges(args: argparse.Namespace, array: Array) -> list[tuple[int, range]]:
    """The axes that are drawn, and what of them."""
    items = chosen(parse_selection(args.select), array.shape)
    return [(d, item) for d, item in enumerate(items) if isinstance(item, range)]


# -- terminal -------------------------------------------------------------------------------------


def _scaled(values: NDArray, low: float, high: float) -> NDArray:
    """0 to 1, NaN where it is NaN."""
    import numpy as np

    return np.clip((values - low) / (high - low), 0, 1)


def image(values: NDArray, low: float, high: float, palette: Any = _VIRIDIS) -> str:
    """Two rows of values per line: upper half blocks on coloured ground."""
    import numpy as np

    points = np.asarray(palette, float)
    scaled = _scaled(values, low, high)
    at = np.nan_to_num(scaled) * (len(points) - 1)
    base = np.minimum(at.astype(int), len(points) - 2)
    part = (at - base)[..., None]
    rgb = np.rint(points[base] * (1 - part) + points[base + 1] * part).astype(int)
    rgb[np.isnan(scaled)] = _MISSING
    lines = []
    for row in range(0, len(rgb), 2):
        cells = []
        for column in range(rgb.shape[1]):
            r, g, b = rgb[row, column]
            cell = f"\x1b[38;2;{r};{g};{b}m"
            if row + 1 < len(rgb):
                r, g, b = rgb[row + 1, column]
                cell += f"\x1b[48;2;{r};{g};{b}m"
            cells.append(cell + "▀")
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)


def shades(values: NDArray, low: float, high: float) -> str:
    """The same without colours: five shades, ``?`` for NaN; two rows are one line."""
    import numpy as np

    scaled = _scaled(values, low, high)
    if len(scaled) % 2:
        scaled = np.concatenate([scaled, scaled[-1:]])
    good = ~np.isnan(scaled)
    pairs = np.where(good, scaled, 0).reshape(-1, 2, scaled.shape[1]).sum(1)
    counts = good.reshape(-1, 2, scaled.shape[1]).sum(1)
    mean = pairs / np.maximum(counts, 1)
    level = np.minimum((mean * len(SHADES)).astype(int), len(SHADES) - 1)
    return "\n".join(
        "".join(SHADES[v] if n else "?" for v, n in zip(row, seen, strict=True)).rstrip()
        for row, seen in zip(level, counts, strict=True)
    )


def braille(rows: NDArray, low: float, high: float, columns: int, lines: int) -> str:
    """Lines through values, in dots of two by four per letter, with the limits at the left."""
    import numpy as np

    labels = (f"{high:g}", f"{low:g}")
    margin = max(map(len, labels)) + 1
    columns = max(2, columns - margin)
    width, height = 2 * columns, 4 * lines
    dots = np.zeros((height, width), bool)
    for row in rows:
        _line(dots, _scaled(row, low, high))
    bits = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
    cells = dots.reshape(lines, 4, columns, 2).transpose(0, 2, 1, 3)
    codes = (cells * bits).sum((2, 3)) + 0x2800
    out = []
    for number, line in enumerate(codes):
        label = labels[0] if number == 0 else labels[1] if number == lines - 1 else ""
        out.append(f"{label:>{margin - 1}} " + "".join(map(chr, line)))
    return "\n".join(out)


def _line(dots: NDArray, scaled: NDArray) -> None:
    """Draw one row; NaN leaves a gap."""
    import numpy as np

    height, width = dots.shape
    n = len(scaled)
    if not n:
        return
    x = np.zeros(1, int) if n == 1 else np.rint(np.arange(n) * (width - 1) / (n - 1)).astype(int)
    y = np.nan_to_num((1 - scaled) * (height - 1)).round().astype(int)
    good = ~np.isnan(scaled)
    for i in range(n):
        if not good[i]:
            continue
        dots[y[i], x[i]] = True
        if i and good[i - 1]:
            steps = max(abs(x[i] - x[i - 1]), abs(y[i] - y[i - 1]), 1)
            t = np.linspace(0, 1, steps + 1)
            xs = np.rint(x[i - 1] + t * (x[i] - x[i - 1])).astype(int)
            dots[np.rint(y[i - 1] + t * (y[i] - y[i - 1])).astype(int), xs] = True
