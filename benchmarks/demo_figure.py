"""The picture of the demo: what was read back, and how small each layout made it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

mpl.use("Agg")  # no screen needed

from matplotlib import pyplot as plt
from matplotlib.colors import LightSource, TwoSlopeNorm

if TYPE_CHECKING:
    from demo import Result

NDArray = npt.NDArray[Any]

INK = "#22303c"
FAINT = "#8a97a3"
V3, SHARDED, V2 = "#2a7f9e", "#e08e45", "#7b6ca8"

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
}


def draw(path: Path, read: dict[str, NDArray], results: list[Result]) -> None:
    """Save the picture; ``read`` has the values read of each data set, by name."""
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(16, 11.5), dpi=110)
        top, bottom = figure.subfigures(2, 1, height_ratios=(1.45, 1))
        images(top, read, title(results))
        ratios(bottom, results)
        figure.savefig(path)
        plt.close(figure)


# -- what was read -----------------------------------------------------------------------------


def title(results: list[Result]) -> str:
    """What the comparison found."""
    differing = sum(not result.equal for result in results)
    if differing:
        return f"{differing} of {len(results)} arrays differ from what was written"
    return f"Read back from Zarr: {len(results)} arrays, every bit as it was written"


def images(figure: Any, read: dict[str, NDArray], heading: str) -> None:
    """One panel for each data set, two for the photographs, and a histogram of the weights."""
    figure.suptitle(
        heading, x=0.02, y=0.975, ha="left", fontsize=17, fontweight="bold",
    )  # fmt: skip
    axes = figure.subplots(2, 4, gridspec_kw={"width_ratios": (1.2, 1.2, 1, 1.3)})
    figure.subplots_adjust(left=0.02, right=0.985, top=0.88, bottom=0.05, wspace=0.16, hspace=0.22)
    show_elevation(axes[0, 0], read["elevation"])
    show_topography(axes[0, 1], read["topography"])
    show_image(axes[0, 2], read["MRI slice"], "MRI slice", cmap="gray")
    show_image(axes[1, 0], read["photographs"][0], "Photograph: temple")
    show_image(axes[1, 1], read["photographs"][1], "Photograph: flower")
    if "embeddings" not in read:
        for panel in (axes[0, 3], axes[1, 2], axes[1, 3]):
            panel.set_axis_off()
        return
    show_heat(axes[1, 2], read["layer weights"][0, :384], "Weights of layer 1 (384 of 1536 rows)")
    show_heat(axes[0, 3], read["embeddings"][2000:2216], "Embeddings of 216 tokens")
    show_histogram(axes[1, 3], read["embeddings"], read["layer weights"])


def bare(axes: Any, title: str) -> None:
    """A picture needs no ticks."""
    axes.set_title(title)
    axes.set_anchor("NW")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def show_image(axes: Any, values: NDArray, title: str, **options: Any) -> None:
    """Values as a picture; ``options`` are those of ``imshow``."""
    axes.imshow(values, **options)
    bare(axes, title)


def show_elevation(axes: Any, values: NDArray) -> None:
    """Heights as colour, with the light from the north-west."""
    light = LightSource(azdeg=315, altdeg=45)
    shaded = light.shade(
        values.astype("f4"), plt.get_cmap("gist_earth"), blend_mode="soft", vert_exag=0.05,
        vmin=float(values.min()) - 150, vmax=float(values.max()) + 150,
    )  # fmt: skip
    show_image(axes, shaded, f"Elevation, {values.min()} to {values.max()} m")


def show_topography(axes: Any, values: NDArray) -> None:
    """Sea and land meet at the middle of the colour map."""
    norm = TwoSlopeNorm(0, float(values.min()), float(values.max()))
    title = f"Topography, {values.min():.0f} to {values.max():.0f} m"
    show_image(axes, values, title, cmap=sea_and_land(), norm=norm, origin="lower")


def sea_and_land() -> Any:
    """Matplotlib's ``terrain``, its sea for the lower half and its land for the upper."""
    terrain = plt.get_cmap("terrain")
    colours = np.vstack([terrain(np.linspace(0, 0.17, 128)), terrain(np.linspace(0.25, 1, 128))])
    return mpl.colors.ListedColormap(colours)


def show_heat(axes: Any, values: NDArray, title: str) -> None:
    """Weights as colour, white at zero."""
    limit = float(np.quantile(np.abs(values), 0.995))
    show_image(axes, values, title, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")


def show_histogram(axes: Any, embeddings: NDArray, layers: NDArray) -> None:
    """Frequencies of the weights, each layer apart."""
    bins = np.linspace(-0.2, 0.2, 161)
    axes.hist(embeddings.ravel(), bins, density=True, color=V2, alpha=0.45, label="embeddings")
    shades = plt.get_cmap("YlGnBu")(np.linspace(0.45, 1, len(layers)))
    for number, (layer, shade) in enumerate(zip(layers, shades, strict=True), 1):
        label = f"layer {number}"
        axes.hist(layer.ravel(), bins, density=True, histtype="step", color=shade, label=label)
    axes.set_title("Distribution of the weights")
    axes.set_xlim(bins[0], bins[-1])
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


# -- how small it became -----------------------------------------------------------------------


def ratios(figure: Any, results: list[Result]) -> None:
    """Bars of bytes in memory to bytes stored: a panel a data set, a bar a layout."""
    figure.suptitle(
        "Bytes in memory for each byte stored, metadata included",
        x=0.02, y=0.975, ha="left", fontsize=14, fontweight="bold",
    )  # fmt: skip
    names = list(dict.fromkeys(result.source.name for result in results))
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    figure.subplots_adjust(left=0.125, right=0.985, top=0.84, bottom=0.06, wspace=0.12)
    for panel, name in zip(axes, names, strict=True):
        rows = [result for result in results if result.source.name == name]
        bars = panel.barh(
            [result.layout.name for result in rows],
            [result.ratio for result in rows],
            color=[colour(result) for result in rows],
            height=0.74,
        )
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        panel.bar_label(bars, fmt="%.2f", padding=4, fontsize=8, bbox=paper)
        panel.axvline(1, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        panel.set_xlim(0, 1.22 * max(result.ratio for result in rows))
        panel.set_title(name)
        panel.set_xticks([])
        panel.spines[["bottom", "left"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
    axes[0].invert_yaxis()


def colour(result: Result) -> str:
    """Of a bar: format 3, format 3 with shards, format 2."""
    return V2 if result.layout.zarr_format == 2 else SHARDED if result.layout.shard_index else V3
