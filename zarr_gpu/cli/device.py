# ruff: noqa: T201 - a command prints
"""``zarr-gpu device``: can a GPU be used here, why not, and how fast is the way to it."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zarr_gpu.cli.main import Subparsers

PROBE_SECONDS = 5.0
PROBE_LIMIT = 60.0
"""Seconds until the probe is stopped; starting CUDA may take ten of them on a machine with many
cards."""
_PACKAGES = re.compile(
    r"zarr-gpu|numcodecs|cupy(-.*)?|(lib)?kvikio-.*"
    r"|nvidia-(cuda-(nvrtc|runtime)|libnvcomp|cufile)(-.*)?"
)


def add_parsers(subparsers: Subparsers) -> None:
    """Declare ``device``."""
    parser = subparsers.add_parser(
        "device",
        help="say whether a GPU can be used, and why not",
        description="Says whether a GPU can be used, and why not. "
        "Exit status: 0 when one can be used, 1 when none can.",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON document")
    parser.add_argument(
        "--probe",
        action=argparse.BooleanOptionalAction,
        default=True,
        help=f"measure copies to the first device for {PROBE_SECONDS:.0f} seconds (default, "
        "where there is one)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the record of :func:`zarr_gpu.device.detect.device_info`, packages and copy rates."""
    from dataclasses import asdict

    from zarr_gpu.device import detect

    info = detect.device_info()
    usable = [i for i in range(len(info.devices)) if info.problem(i) is None]
    bandwidth = probe(usable[0]) if args.probe and usable else None
    if args.json:
        document = {**asdict(info), "packages": packages(), "bandwidth": bandwidth}
        for name in ("nvrtc", "nvcomp", "kvikio", "gds"):
            document[name] = getattr(info, name)._asdict()
        document["devices"] = [device._asdict() for device in info.devices]
        print(json.dumps(document, indent=2))
    else:
        print(info)
        print(f"  packages  {', '.join(f'{k} {v}' for k, v in packages().items())}")
        for line in _described(bandwidth):
            print(f"  {line}")
    return 0 if usable else 1


def packages() -> dict[str, str]:
    """Installed distributions that matter here, by name."""
    from importlib.metadata import distributions  # slow to import

    found = (((d.metadata["Name"] or "").lower(), d.version) for d in distributions())
    return dict(sorted((name, version) for name, version in found if _PACKAGES.fullmatch(name)))


def probe(index: int) -> dict[str, Any]:
    """Copy rates in bytes per second, or ``{"error": text}``; in a process that can be stopped."""
    command = [sys.executable, "-m", "zarr_gpu.device.probe", str(index), str(PROBE_SECONDS)]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            command, capture_output=True, text=True, timeout=PROBE_LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"stopped after {PROBE_LIMIT:.0f} seconds"}
    if done.returncode != 0:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _described(bandwidth: dict[str, Any] | None) -> list[str]:
    if bandwidth is None:
        return []
    if "error" in bandwidth:
        return [f"copies    not measured: {bandwidth['error']}"]
    rates = {name: f"{value / 1e9:.1f} GB/s" for name, value in bandwidth.items()}
    return [
        f"copies    pinned memory to device {rates['host_to_device']}",
        f"          inside the device {rates['device_to_device']} (read and written counts once)",
        f"          page cache to pinned memory {rates['page_cache_to_pinned']}",
    ]
