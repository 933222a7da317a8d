# ruff: noqa: T201 - a command prints
"""``zarr-gpu verify``, ``migrate`` and ``remove-metadata``."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from zarr_gpu.cli import common
from zarr_gpu.cli.progress import size

if TYPE_CHECKING:
    from zarr_gpu.cli.main import Subparsers

SHOWN = 20


def add_parsers(subparsers: Subparsers) -> None:
    """Declare the commands."""
    verify = common.command(
        subparsers,
        "verify",
        _verify,
        "read every chunk, and name those that cannot be decoded or fail their checksum",
        """
        zarr-gpu verify survey.zarr
        zarr-gpu verify survey.zarr/depth --json
        """,
        more="Exit status 1 when there are any. Chunks that are not stored are counted: they read "
        "as the fill value. Keys that belong to no node, and files of killed writers, are listed.",
    )
    common.add_place(verify)
    verify.add_argument("--device", default="cpu", help="that decodes: cpu (default) or cuda:N")
    verify.add_argument("--backend", dest="device", help="the same as --device")
    verify.add_argument(
        "--strict", action="store_true", help="keys that belong to no node are problems, too"
    )
    common.add_common(verify, quiet=True)
    migrate = common.command(
        subparsers,
        "migrate",
        _migrate,
        "write metadata of format 3 beside those of format 2; chunks stay",
        """
        zarr-gpu migrate v3 old.zarr --dry-run
        zarr-gpu migrate v3 old.zarr --remove-v2-metadata
        """,
        more="The same documents as `zarr migrate v3` of zarr-python writes.",
    )
    migrate.add_argument("zarr_format", choices=["v3"])
    common.add_place(migrate)
    migrate.add_argument("target", nargs="?", help="where to write the documents instead")
    migrate.add_argument("-n", "--dry-run", action="store_true", help="only say what it would do")
    migrate.add_argument(
        "--overwrite", action="store_true", help="remove metadata of format 3 there first"
    )
    migrate.add_argument(
        "--force", action="store_true", help="also where there are none of format 2"
    )
    migrate.add_argument(
        "--remove-v2-metadata", action="store_true", help="remove those of format 2 at the end"
    )
    common.add_common(migrate)
    remove = common.command(
        subparsers,
        "remove-metadata",
        _remove,
        "remove the metadata of one format where there are those of the other",
        """
        zarr-gpu remove-metadata v2 both.zarr --dry-run
        """,
    )
    remove.add_argument("zarr_format", choices=["v2", "v3"])
    common.add_place(remove)
    remove.add_argument("-n", "--dry-run", action="store_true", help="only say what it would do")
    remove.add_argument("--force", action="store_true", help="also where there are no others")
    common.add_common(remove)


def _verify(args: argparse.Namespace) -> int:
    from zarr_gpu.tools.verifying import verify

    store, path, options = _existing(args, args.path)
    start = time.monotonic()
    found = verify(
        store, path, device=args.device, storage_options=options, progress=common.bar(args)
    )
    bad = bool(found.problems) or (args.strict and bool(found.stray or found.temporary))
    if args.json:
        common.print_json({"path": args.path, **found.to_dict()})
        return common.PROBLEMS if bad else common.OK
    for problem in found.problems:
        print(f"{problem.kind:<9} {problem.message}")
    for what, keys in (("stray", found.stray), ("temporary", found.temporary)):
        for key in keys[:SHOWN]:
            print(f"{what:<9} {key}")
        if len(keys) > SHOWN:
            print(f"{what:<9} ... and {len(keys) - SHOWN} more")
    seconds = max(1e-9, time.monotonic() - start)
    n = len(found.problems)
    print(
        f"{found.arrays} {'array' if found.arrays == 1 else 'arrays'}, {found.objects} stored "
        f"objects, {found.missing} missing, {size(found.nbytes)} decoded at "
        f"{size(found.nbytes / seconds)}/s: {n or 'no'} problem{'' if n == 1 else 's'}"
    )
    return common.PROBLEMS if bad else common.OK


def _existing(args: argparse.Namespace, text: str) -> tuple[str, str | None, dict[str, Any] | None]:
    """Store, path and options of what must be there."""
    store, path = common.split(text)
    if not common.is_there(store):
        raise FileNotFoundError(f"{store}: no such file or directory")
    return store, path or None, common.storage_options(args) if "://" in store else None


def _migrate(args: argparse.Namespace) -> int:
    from zarr_gpu.tools.migrating import migrate

    store, path, options = _existing(args, args.path)
    keys = migrate(
        store,
        args.target,
        path=path,
        dry_run=args.dry_run,
        overwrite=args.overwrite,
        force=args.force,
        remove_v2_metadata=args.remove_v2_metadata,
        storage_options=options,
    )
    return _listed(args, keys, "would be written" if args.dry_run else "written")


def _remove(args: argparse.Namespace) -> int:
    from zarr_gpu.tools.migrating import remove_metadata

    store, path, options = _existing(args, args.path)
    keys = remove_metadata(
        store,
        int(args.zarr_format[1:]),
        path=path,
        force=args.force,
        dry_run=args.dry_run,
        storage_options=options,
    )
    return _listed(args, keys, "would be removed" if args.dry_run else "removed")


def _listed(args: argparse.Namespace, keys: list[str], what: str) -> int:
    if args.json:
        common.print_json({"dry_run": args.dry_run, "keys": keys})
        return common.OK
    for key in keys:
        print(f"{key} {what}")
    return common.OK
