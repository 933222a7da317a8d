"""Commands killed just before each change they make to the file system, one after the other.

Run as a script: the parent only forks, so that every child starts without threads.
"""

import hashlib
import importlib
import json
import os
import pkgutil
import shutil
import sys
import zipfile
from pathlib import Path

KILLED = 99
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate"}


def run(argv, at=None):
    """Exit status of a command in a process of its own, and whether it came to change ``at``."""
    pid = os.fork()
    if pid:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return status, status == KILLED
    with open("output.txt", "w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    count = 0
    here = os.getcwd()

    def hook(event, args):  # of sys.addaudithook
        nonlocal count
        if event == "open":
            path, _, flags = args
            new = isinstance(flags, int) and flags & (os.O_CREAT | os.O_TRUNC)
            if not new or not str(path).startswith(("target", here)) or "output" in str(path):
                return
        elif event not in CHANGES:
            return
        if count == at:
            os._exit(KILLED)
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


def contents(target):
    """A digest of a file, or of a directory without what killed writers left.

    The record of a job is not looked at: it goes when all else is there.
    """
    path = Path(target)
    if path.suffix == ".zip" and zipfile.is_zipfile(path):  # its members have dates
        with zipfile.ZipFile(path) as archive:
            found = sorted((m.filename, m.CRC) for m in archive.infolist())
        return hashlib.sha256(repr(found).encode()).hexdigest()
    if not path.is_dir():
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
    files = [p for p in sorted(path.rglob("*")) if p.is_file()]
    files = [p for p in files if ".zg-" not in str(p) and "zarr-gpu-unfinished" not in str(p)]
    found = [(str(p), hashlib.sha256(p.read_bytes()).hexdigest()) for p in files]
    return hashlib.sha256(repr(found).encode()).hexdigest() if found else None


def main():
    """Print what is there after each kill, and after the second run."""
    kept, target, stride, *argv = sys.argv[1:]
    # Modules are loaded here, so that nothing but the command changes files in a child.
    for part in ("cli", "tools", "stores", "checkpoint", "codecs"):
        package = importlib.import_module(f"zarr_gpu.{part}")
        for module in pkgutil.iter_modules(package.__path__, f"zarr_gpu.{part}."):
            if not module.name.endswith((".dcp", ".jax", ".zarr_python")):  # slow, and not needed
                importlib.import_module(module.name)
    if target.endswith(".h5"):
        importlib.import_module("h5py")
    sys.dont_write_bytecode = True
    reset(kept)
    before = contents(target)
    status, _ = run(argv)
    names = {before: "old", contents(target): "new", None: "none"}
    document = {"status": status, "rows": []}
    at = 0
    while True:
        reset(kept)
        _, killed = run(argv, at)
        if not killed:
            break
        row = {"at": at, "killed": names.get(contents(target), "other")}
        row["opens"] = run(["info", target, "--json"])[0]
        row["again"] = run(argv)[0]
        row["said"] = Path("output.txt").read_text()
        row["after"] = names.get(contents(target), "other")
        row["left"] = sorted(str(p) for p in Path().rglob("*unfinished*"))
        document["rows"].append(row)
        at += int(stride)
    print(json.dumps(document))


if __name__ == "__main__":
    main()
