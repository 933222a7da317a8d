# ruff: noqa: T201 - a command prints
"""Arguments of the command ``zarr-gpu``, and which module runs each subcommand.

Knows no subcommand but by the function of :class:`Command`.

>>> main(["device", "--no-probe"]) in (0, 1)  # doctest: +ELLIPSIS
CUDA devices...
True
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TextIO

from zarr_gpu.cli import (
    bench,
    checking,
    ckpt,
    common,
    completion,
    device,
    jobs,
    looking,
    plotting,
    values,
)

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - has no other name


class Command(Protocol):
    """What a module of this package offers; it imports what is slow when a command runs."""

    def add_parsers(self, subparsers: Subparsers) -> object:
        """Declare names, help and arguments; ``run`` among the defaults does it.

        It prints, and returns the exit status.
        """


_TAKE_NUMBERS = {"-s", "--select", "--chunks", "--shards"}
COMMANDS: tuple[Command, ...] = (
    looking,
    values,
    plotting,
    jobs,
    checking,
    bench,
    ckpt,
    device,
    completion,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` and return the exit status."""
    debug = False
    try:
        args = parser().parse_args(_joined(sys.argv[1:] if argv is None else argv))
        debug = args.debug
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            status: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough: zarr-gpu ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return common.CLOSED
    except KeyboardInterrupt:
        print("zarr-gpu: interrupted", file=sys.stderr)
        return common.INTERRUPTED
    except Exception as error:
        found = common.status_of(error)
        if found is None or debug:
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"zarr-gpu: {text or type(error).__name__}", file=sys.stderr)
        return found
    return status


def command() -> NoReturn:
    """Be the process ``zarr-gpu``."""
    status = main()
    if status == common.INTERRUPTED:
        # Not through the end of the interpreter: it waits for threads, among them, for ever, for
        # one that was just being started when the signal came, which its pool does not know.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """One line, without the place in the code."""
    print(f"zarr-gpu: warning: {message}", file=sys.stderr)


def _joined(argv: Sequence[str]) -> list[str]:
    """Negative numbers after options that take selections, which argparse takes for options.

    >>> _joined(["cat", "a", "-s", "-1,:3", "--chunks", "-1,5"])
    ['cat', 'a', '-s-1,:3', '--chunks=-1,5']
    """
    out: list[str] = []
    for word in argv:
        if (
            out
            and out[-1] in _TAKE_NUMBERS
            and len(word) > 1
            and word[0] == "-"
            and word[1].isdigit()
        ):
            out[-1] += ("=" if out[-1].startswith("--") else "") + word
        else:
            out.append(word)
    return out


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser(
        prog="zarr-gpu",
        description="Zarr arrays on CPU and GPU.",
        epilog=common.STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    top.add_argument("--debug", action="store_true", help="show where in the code an error arose")
    subparsers = top.add_subparsers(metavar="command", required=True, dest="command")
    for module in COMMANDS:
        module.add_parsers(subparsers)
    return top


class _Version(argparse.Action):
    """Looked up when it is asked for: finding it takes longer than everything else here."""

    def __call__(self, parser: argparse.ArgumentParser, *unused: Any, **options: Any) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("zarr-gpu")
        except PackageNotFoundError:
            found = "(not installed)"
        print(f"zarr-gpu {found}")
        parser.exit()
