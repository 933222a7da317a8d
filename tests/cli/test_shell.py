"""Help, completion, progress, and measurements: what is around the commands."""

import argparse
import io
import json
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.device.devices import emulated
from zarr_gpu.cli import common
from zarr_gpu.cli.completion import Node, bash, fish, zsh
from zarr_gpu.cli.main import parser
from zarr_gpu.cli.progress import Bar, clock, size


def commands():
    (subparsers,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return subparsers.choices


EXAMPLES = [
    line.strip()
    for name, command in commands().items()
    for line in (command.epilog or "").splitlines()
    if line.strip().startswith("zarr-gpu ")
]


def test_every_new_command_has_examples():
    named = {shlex.split(example)[1] for example in EXAMPLES}
    assert named == set(commands()) - {"ckpt", "device"}


@pytest.fixture
def files(survey):
    """What the examples name."""
    import zarr_gpu

    np.save("other.npy", np.asarray(survey["depth"]))
    zarr_gpu.create_array("old.zarr", data=np.arange(9), chunks=(4,), zarr_format=2)
    zarr_gpu.create_array("both.zarr", data=np.arange(9), zarr_format=2)
    zarr_gpu.migrate("both.zarr")


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_of_the_help_run(example, files, run, tmp_path):
    status, _, err = run(*shlex.split(example)[1:])
    assert status == 0, err
    assert "Traceback" not in err


def test_help_is_fast():
    """What --help loads; NumPy alone would take most of the 0.3 s that it may."""
    code = (
        "import sys, contextlib, io\n"
        "from zarr_gpu.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main(['--help'])\n"
        "print(' '.join(sorted(sys.modules)))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    slow = {"numpy", "fsspec", "zarr", "importlib.metadata", "asyncio", "zarr_gpu.array"}
    assert not slow & set(loaded.stdout.split())


# -- completion -----------------------------------------------------------------------------------


def complete(words, directory):
    """What bash offers for the last word."""
    script = directory / "completion.bash"
    script.write_text(bash(Node(parser())))
    quoted = " ".join(shlex.quote(word) for word in words)
    code = (
        f"source {script}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _zarr_gpu; "
        'echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    "words, expected",
    [
        (["zarr-gpu", "con"], ["convert", "consolidate"]),
        (["zarr-gpu", "convert", "a", "--ov"], ["--overwrite"]),
        (["zarr-gpu", "convert", "--like", ""], ["gpu"]),
        (["zarr-gpu", "ckpt", "ver"], ["verify"]),
        (["zarr-gpu", "ckpt", "convert", "--compression", "z"], ["zstd"]),
        (["zarr-gpu", "completion", ""], ["bash", "zsh", "fish", "-h", "--help"]),
        (["zarr-gpu", "info", "file"], []),
    ],
)
def test_bash_completes(words, expected, tmp_path):
    assert sorted(complete(words, tmp_path)) == sorted(expected)


FISH = [
    ("zarr-gpu con", ["consolidate", "convert"]),
    ("zarr-gpu convert a --ov", ["--overwrite"]),
    ("zarr-gpu convert --like ", ["gpu"]),
    ("zarr-gpu ckpt ver", ["verify"]),
    ("zarr-gpu ckpt convert --compression ", ["auto", "none", "zstd"]),
    ("zarr-gpu ckpt convert --c", ["--compression"]),  # not --chunks, of convert
    ("zarr-gpu convert convert --li", ["--like"]),
    ("zarr-gpu completion ", ["bash", "fish", "zsh"]),
    ("zarr-gpu copy fi", ["file.zarr"]),
    ("zarr-gpu migrate v", ["v3"]),
]


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes(tmp_path):
    (tmp_path / "completion.fish").write_text(fish(Node(parser())))
    (tmp_path / "file.zarr").touch()
    asked = "".join(f"; echo; complete -C '{line}'" for line, _ in FISH)
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source completion.fish{asked}"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.stderr == ""
    found = [
        [line.partition("\t")[0] for line in part.splitlines()]
        for part in done.stdout[1:].split("\n\n")
    ]
    assert [sorted(words) for words in found] == [words for _, words in FISH]


ZSH = r"""
zmodload zsh/zpty
zpty z 'zsh -f -i'
function wait_for() {
  local line=""
  for i in {1..200}; do
    zpty -r -t z part 2>/dev/null && line+=$part
    [[ $line == *${~1}* ]] && { print -r -- "$line"; return 0 }
    sleep 0.05
  done
  print -r -- "no $1 in: $line"; return 1
}
zpty -w z 'stty columns 200 -echo; PS1=; autoload -U compinit; compinit -u -D; source ./_zarr-gpu'
zpty -w z 'zstyle ":completion:*" insert-unambiguous true; setopt no_always_last_prompt no_beep'
zpty -w z 'LISTMAX=0; shown() { print -r "<$BUFFER>"; zle kill-whole-line }; zle -N shown'
zpty -w z 'bindkey "^X" shown; print REA\DY'
wait_for READY >/dev/null || exit 1
while read -r line; do
  zpty -w -n z $line$'\t\C-x'
  wait_for '<*>' || exit 1
done
zpty -d z
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes(tmp_path):
    """By the real line editor, on a terminal of its own: what one tab makes of a line."""
    (tmp_path / "_zarr-gpu").write_text(zsh(Node(parser())))
    (tmp_path / "file.zarr").touch()
    (tmp_path / "run.zsh").write_text(ZSH)
    lines = {
        "zarr-gpu conso": "zarr-gpu consolidate ",
        "zarr-gpu convert --ov": "zarr-gpu convert --overwrite ",
        "zarr-gpu convert --like g": "zarr-gpu convert --like gpu ",
        "zarr-gpu ckpt ver": "zarr-gpu ckpt verify ",
        "zarr-gpu ckpt convert --compression z": "zarr-gpu ckpt convert --compression zstd ",
        "zarr-gpu completion fi": "zarr-gpu completion fish ",
        "zarr-gpu info fi": "zarr-gpu info file.zarr ",
    }
    done = subprocess.run(
        ["zsh", "-f", "run.zsh"], input="\n".join(lines) + "\n", cwd=tmp_path,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    found = re.findall(r"<(zarr-gpu[^<>]*)>", done.stdout)
    assert found == list(lines.values()), done.stdout + done.stderr


@pytest.mark.parametrize("make", [bash, zsh, fish])
def test_every_command_and_option_is_in_every_script(make):
    text = make(Node(parser()))
    for name, command in commands().items():
        assert name in text
        for action in command._actions:
            for option in action.option_strings:
                assert (f"-l {option[2:]} " if make is fish and option[:2] == "--" else option) in (
                    text.replace("\n", " ") if make is not fish or option[:2] == "--" else option
                )
    shell = make.__name__
    if shutil.which(shell):  # the syntax, where there is the shell
        done = subprocess.run(
            [shell, "-n"], input=text, text=True, capture_output=True, check=False
        )
        assert done.stderr == ""


# -- progress -------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_has_amount_rate_and_remaining_time():
    bar = Bar(stream=Terminal())
    bar.begin("depth", 100 << 20)
    bar.advance(25 << 20)
    line = bar.line(5.0)
    assert "25%" in line
    assert "25.0 MiB of 100.0 MiB" in line
    assert "5.0 MiB/s" in line
    assert "0:15 left" in line
    bar.end()
    assert bar._stream.getvalue().endswith("\x1b[K\n")


def test_progress_of_a_resumed_job_counts_only_what_it_does_itself():
    bar = Bar(stream=Terminal())
    bar.begin("x", 100, "objects", done=50)
    bar.advance(10)
    assert "60 objects of 100  10/s  0:04 left" in bar.line(1.0)
    bar.begin("y", 0, "objects")
    bar.advance(7)
    assert bar.line(1.0) == "y  7 objects  7/s"


@pytest.mark.parametrize("quiet, terminal", [(True, True), (False, False)])
def test_no_progress_where_it_is_not_wanted(quiet, terminal):
    stream = Terminal() if terminal else io.StringIO()
    bar = Bar(quiet=quiet, stream=stream)
    bar.begin("x", 10)
    bar.advance(10)
    bar.end()
    assert stream.getvalue() == ""


def test_commands_draw_progress_on_terminals(survey, run, monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    for command in ("verify survey.zarr", "convert survey.zarr a.zarr --compressor gzip"):
        stream.truncate(0)
        assert run(*command.split())[0] == 0
        assert "depth" in stream.getvalue()
        assert "100%" in stream.getvalue()
        stream.truncate(0)
        assert run(*command.replace("a.zarr", "b.zarr").split(), "-q")[0] == 0
        assert stream.getvalue() == ""


@pytest.mark.parametrize("kind", ["safetensors", "zarr", "npz"])
def test_ckpt_draws_progress_and_replaces_nothing_unasked(survey, run, monkeypatch, kind):
    assert run("convert", "survey.zarr", "a.safetensors", "-q")[0] == 0
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    assert run("ckpt", "convert", "a.safetensors", f"b.{kind}")[0] == 0
    for part in ("read", "write", "/s"):
        assert part in stream.getvalue()
    if kind != "npz":
        assert stream.getvalue().count("100%") >= 2
        assert "left" in stream.getvalue()
    stream.truncate(0)
    assert run("ckpt", "index", "a.safetensors")[0] == 0
    assert run("ckpt", "slice", "a.safetensors", "depth", "0:2")[0] == 0
    assert "references" in stream.getvalue()
    assert "depth" in stream.getvalue()
    stream.truncate(0)
    for command in (["index", "a.safetensors"], ["slice", "a.safetensors", "depth", "0:2"]):
        assert run("ckpt", *command, "-q")[0] == 0
    assert run("ckpt", "convert", "a.safetensors", f"b.{kind}", "--overwrite", "-q")[0] == 0
    assert stream.getvalue() == ""
    assert run("ckpt", "convert", "a.safetensors", f"b.{kind}")[0] == 5
    assert run("ckpt", "diff", "a.safetensors", f"b.{kind}", "-q")[0] == 0


def test_sizes_and_times():
    assert [size(n) for n in (5, 1536, 5 << 30, 3 << 41)] == [
        "5 B",
        "1.5 KiB",
        "5.0 GiB",
        "6.0 TiB",
    ]
    assert [clock(s) for s in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]


# -- measurements ---------------------------------------------------------------------------------


def test_bench_measures_each_device(survey, run):
    command = ("bench", "survey.zarr/depth", "--repeat", 2, "--device", "cpu", "--threads", "1,2")
    status, out, err = run(*command, "--cold", "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["nbytes"] == 60 * 40 * 2
    rows = [(r["engine"], r["device"], r["threads"]) for r in found["results"]]
    assert rows[:2] == [("zarr_gpu", "cpu", 1), ("zarr_gpu", "cpu", 2)]
    assert rows[2:] in ([], [("zarr-python", "cpu", None)])
    assert all(r["median"] >= r["best"] > 0 for r in found["results"])
    assert all(r["cold"] > 0 for r in found["results"])
    assert "2 threads" in run(*command)[1]


def test_bench_and_verify_on_an_emulated_device(survey, run, monkeypatch, tmp_path):
    with emulated(monkeypatch):
        out = run("bench", "survey.zarr/depth", "--device", "cuda:0", "--repeat", 1, "--json")[1]
        (row,) = json.loads(out)["results"]
        assert (row["device"], row["threads"]) == ("cuda:0", None)
        assert run("verify", "survey.zarr", "--device", "cuda:0")[0] == 0
        (tmp_path / "survey.zarr/depth/c/1/1").write_bytes(b"rubbish")
        status, out, _ = run("verify", "survey.zarr", "--device", "cuda:0", "--json")
        assert status == 1
        assert [p["key"] for p in json.loads(out)["problems"]] == ["depth/c/1/1"]
        info = run("info", "survey.zarr/depth", "--device", "cuda:0")[1]
        assert re.search(r"device +cuda:0", info)


def test_storage_options(monkeypatch):
    args = argparse.Namespace(storage_option=["anon=true", "key=abc", 'client={"a": 1}'])
    assert common.storage_options(args) == {"anon": True, "key": "abc", "client": {"a": 1}}
    with pytest.raises(ValueError, match="KEY=VALUE"):
        common.storage_options(argparse.Namespace(storage_option=["x"]))
