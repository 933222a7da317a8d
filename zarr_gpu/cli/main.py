# ruff: noqa: T201 - a command prints
"""Arguments of the command ``zarr-gpu``, and which module runs each subcommand.

Knows no subcommand but by the two functions of :class:`Command`.

>>> main(["device", "--no-probe"]) in (0, 1)  # doctest: +ELLIPSIS
CUDA devices...
True
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Protocol

from zarr_gpu.cli import ckpt, device
from zarr_gpu.errors import ZarrGpuError

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - has no other name


class Command(Protocol):
    """What a module of this package offers; it imports what is slow inside ``run``."""

    def add_parser(self, subparsers: Subparsers) -> argparse.ArgumentParser:
        """Declare name, help and arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it, print, and return the exit status."""


COMMANDS: tuple[Command, ...] = (ckpt, device)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` and return the exit status."""
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except (ZarrGpuError, FileNotFoundError, KeyError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"zarr-gpu: {text}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has seen enough: zarr-gpu ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zarr-gpu", description="Zarr arrays on CPU and GPU.")
    parser.add_argument("--version", action="version", version=f"zarr-gpu {_version()}")
    subparsers = parser.add_subparsers(metavar="command", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers).set_defaults(run=command.run)
    return parser


def _version() -> str:
    try:
        return version("zarr-gpu")
    except PackageNotFoundError:
        return "(not installed)"
