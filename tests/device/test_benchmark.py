"""What the benchmark of a card does where there is none, and with sections that fail."""

import json
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import device as benchmark
from zarr_gpu.device.detect import Device, DeviceInfo

ROOT = Path(__file__).parents[2]


def collected(code, limit=60.0):
    return benchmark.collect([sys.executable, "-c", code], limit)


def test_without_a_card_it_says_why_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("ZARR_GPU_DEVICE", "cpu")
    out = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks.device", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout.startswith("benchmarks.device needs a GPU: ")
    assert "ZARR_GPU_DEVICE" in done.stdout
    assert done.stderr == ""
    assert not out.exists()


def test_findings_are_merged():
    found = collected("print('noise'); print('found: {\"a\": 1}'); print('found: {\"b\": 2}')")
    assert found.pop("seconds") > 0
    assert found == {"a": 1, "b": 2}


def test_findings_before_a_failure_are_kept():
    found = collected("print('found: {\"a\": 1}', flush=True); raise SystemExit('no memory')")
    assert found["a"] == 1
    assert found["error"] == "status 1; no memory"
    found = collected("import os; print('found: {\"a\": 1}', flush=True); os.kill(os.getpid(), 9)")
    assert found["a"] == 1
    assert found["error"] == "status -9"


def test_a_section_that_hangs_is_stopped_with_what_it_started():
    """The pipe of the section's child is closed only when that is gone, too."""
    read, write = os.pipe()
    os.set_inheritable(write, True)
    code = (
        "import subprocess, sys\n"
        "print('found: {\"a\": 1}', flush=True)\n"
        "print('found: {\"cut o', end='', flush=True)\n"
        "hang = 'import os, signal; os.write(' + sys.argv[1] + ', b\"x\"); signal.pause()'\n"
        "subprocess.run([sys.executable, '-c', hang], close_fds=False)"
    )
    command = [sys.executable, "-c", code, str(write)]
    try:
        popen = subprocess.Popen
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                benchmark.subprocess,
                "Popen",
                lambda *args, **options: popen(*args, **options, pass_fds=[write]),
            )
            found = benchmark.collect(command, 3.0)
        os.close(write)
        write = None
        assert found["error"].startswith("stopped after 3 s")
        assert {name for name in found if name not in ("error", "seconds")} <= {"a"}
        assert select.select([read], [], [], 60)[0]  # what was written, or its end
        while os.read(read, 1):
            assert select.select([read], [], [], 60)[0], "somebody can still write"
    finally:
        os.close(read)
        if write is not None:
            os.close(write)


def test_sections_run_one_after_another_and_are_written_at_once(tmp_path, monkeypatch, capsys):
    out = tmp_path / "folder" / "results.json"
    info = DeviceInfo(reason=None, devices=(Device("NVIDIA H200", (9, 0), 1 << 37),))
    monkeypatch.setattr(benchmark.detect, "device_info", lambda: info)
    written = []

    def collect(command, limit):
        if out.exists():
            written.append(list(json.loads(out.read_text())["sections"]))
        assert command[:2] == [sys.executable, "-m"]
        return {"seconds": 1.0, "limit": limit, "command": command[2:]}

    monkeypatch.setattr(benchmark, "collect", collect)
    sections = "nvcomp_rates,copies,zstd_sharded"
    arguments = ["--out", str(out), "--sections", sections, "--size", "2", "--folder", "/x"]
    assert benchmark.main(arguments) == 0
    report = json.loads(out.read_text())
    assert report["card"] == "NVIDIA H200"
    assert list(report["sections"]) == sections.split(",")
    assert written == [["nvcomp_rates"], ["nvcomp_rates", "copies"]]
    assert report["sections"]["copies"]["limit"] == benchmark.LIMITS["copies"]
    assert report["sections"]["nvcomp_rates"]["command"] == ["benchmarks.device_nvcomp", "rates"]
    given = ["--size", "2.0", "--seconds", "1", "--folder", "/x"]
    expected = ["benchmarks.device", "--only", "zstd_sharded", *given]
    assert report["sections"]["zstd_sharded"]["command"] == expected
    assert "zstd_sharded: 1 s" in capsys.readouterr().out


def test_every_section_has_a_limit_and_all_fit_into_eight_minutes():
    assert set(benchmark.LIMITS) == set(benchmark.SECTIONS) | set(benchmark.PROGRAMS)
    assert sum(benchmark.LIMITS.values()) < 8 * 60


def test_unknown_sections_are_refused(capsys):
    with pytest.raises(SystemExit) as leaving:
        benchmark.main(["--sections", "copies,nonsense"])
    assert leaving.value.code == 2
    assert "nonsense" in capsys.readouterr().err


def test_the_record_of_the_machine_needs_no_card(monkeypatch):
    monkeypatch.setenv("ZARR_GPU_DEVICE", "cpu")
    found = collected("import benchmarks.device as b; b.main(['--only', 'environment'])")
    assert "error" not in found
    assert "numcodecs" in found["packages"]
    assert found["cpus"] >= 1
