"""Commands killed just before each change they make to the file system, one after the other.

Run as a script: the parent only forks, so that every child starts without threads.
"""

import json
import os
import shutil
import sys
from pathlib import Path

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate"}


def run(argv, at=None):
    """Exit status of a command in a process of its own, -9 where it was killed before change `at`.

    Gives the status and whether it came to that change at all.
    """
    pid = os.fork()
    if pid:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return (-9 if status == 99 else status), status == 99
    with open("output.txt", "w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    count = 0
    here = os.getcwd()

    def hook(event, args):
        nonlocal count
        if event == "open":
            path, _, flags = args
            new = isinstance(flags, int) and flags & (os.O_CREAT | os.O_TRUNC)
            if not new or not str(path).startswith(("target", here)) or "output" in str(path):
                return
        elif event not in CHANGES:
            return
        if count == at:
            os._exit(99)
        count += 1

    from zarr_gpu.cli.main import main
    from zarr_gpu.tools import journal

    journal.SAVE_SECONDS = 0
    if at is not None:
        sys.addaudithook(hook)
    try:
        status = main(argv)
    except SystemExit as leaving:
        status = leaving.code
    sys.stdout.flush()
    os._exit(status)


def reset(kept):
    """The working directory as it was."""
    for path in Path().iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    shutil.copytree(kept, ".", dirs_exist_ok=True)


def main():
    """Report for every change: status of the killed and of the second run, what was there."""
    kept, stride, *argv = sys.argv[1:]
    import importlib

    # Modules are loaded here, so that nothing but the command changes files in a child.
    for name in ("tools.converting", "tools.copying", "tools.migrating", "tools.exporting",
                 "cli.main", "codecs.gzip", "checkpoint.convert"):  # fmt: skip
        importlib.import_module(f"zarr_gpu.{name}")
    sys.dont_write_bytecode = True
    rows = []
    at = 0
    while True:
        reset(kept)
        status, killed = run(argv, at)
        if not killed:
            break
        row = {
            "at": at,
            "info": run(["info", argv[-1] if not argv[-1].startswith("-") else argv[2], "--json"])[
                0
            ],
        }
        row["left"] = sorted(str(p) for p in Path().rglob("*") if not p.is_dir())[:400]
        row["verify"] = run(["verify", argv[2]])[0]
        row["again"] = run(argv)[0]
        row["said"] = Path("output.txt").read_text()
        row["verified"] = run(["verify", argv[2], "--strict"])[0]
        row["verify said"] = Path("output.txt").read_text()
        shutil.rmtree("../after", ignore_errors=True)
        rows.append(row)
        at += int(stride)
        with open("../rows.json", "w") as file:
            json.dump(rows, file)
        shutil.copytree(".", f"../done/{row['at']}", dirs_exist_ok=True)
    print(json.dumps({"changes": at, "last": status}))


if __name__ == "__main__":
    main()
