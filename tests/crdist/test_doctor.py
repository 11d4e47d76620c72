"""What `crdist doctor` finds out, on this machine as it is and where something is broken."""

import json
import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crdist import doctor
from crdist.commands.doctor import check_batch_systems, check_machine
from crdist.doctor import Finding, place


def run_doctor(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "crdist.cli", "doctor", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    )


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """An empty folder that alone is searched for commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def add(name, script):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return add


def test_a_sound_machine(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (tmp_path / "bin").mkdir()
    done = run_doctor("--json", "--scratch", str(scratch), PATH=str(tmp_path / "bin"))
    report = json.loads(done.stdout)
    broken = [finding for finding in report["findings"] if finding["state"] == "broken"]
    assert not broken
    assert report["sound"]
    assert done.returncode == 0
    assert {finding["topic"] for finding in report["findings"]} >= {
        *("crdist", "packages", "extra", "imports", "jax", "numba", "cores", "memory", "scratch", "store"),
        *("network", "cluster"),
    }
    assert all(set(finding) == {"topic", "state", "text", "advice"} for finding in report["findings"])
    assert not any("\n" in finding["text"] + finding["advice"] for finding in report["findings"])
    assert list(scratch.iterdir()) == []


def test_a_scratch_folder_that_is_missing(tmp_path):
    found = doctor.check_scratch(tmp_path / "none")
    assert [finding.state for finding in found] == ["broken"]
    assert str(found[0]).endswith("none: no such folder; give another folder with --scratch")


def test_a_scratch_folder_that_cannot_be_written():
    # not even root makes files there
    found = doctor.check_scratch(Path("/sys/kernel"))
    assert [finding.state for finding in found] == ["broken"]
    assert "/sys/kernel: cannot be written (" in found[0].text


def test_a_disk_that_takes_no_more(tmp_path):
    program = (
        "import resource, signal, sys\nfrom pathlib import Path\nfrom crdist.doctor import check_store_in\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "found = check_store_in(Path(sys.argv[1]))\nprint(found.state, found.text)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == f"broken {tmp_path}: a small posterior cannot be written there (File too large)\n"
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096


def test_a_store_that_comes_back_changed(tmp_path, monkeypatch):
    from crdist import check

    sound = check.check_store

    def damage_first(path):
        # one bit of one value, as a bad disk would turn it
        file = max(
            (file for file in (path / "density").rglob("*") if file.is_file()), key=lambda file: file.stat().st_size
        )
        data = bytearray(file.read_bytes())
        data[len(data) // 3] ^= 1
        file.write_bytes(data)
        return sound(path)

    monkeypatch.setattr(check, "check_store", damage_first)
    found = doctor.check_store_in(tmp_path)
    assert found.state == "broken"
    assert "came back wrong" in found.text
    assert "checksum" in found.text
    assert list(tmp_path.iterdir()) == []


def test_a_batch_system_that_hangs(commands):
    commands("sbatch", "exec /bin/sleep 60")
    commands("squeue", "exit 0")
    began = time.monotonic()
    (found,) = check_batch_systems(1.0)
    assert time.monotonic() - began < 20
    assert found.state == "broken"
    assert found.text == "slurm: 'sbatch --version' did not end in 1 s"


def test_a_batch_system_that_complains(commands):
    commands("qsub", "exit 0")
    commands("qstat", "echo 'cannot connect to server' >&2; exit 7")
    (found,) = check_batch_systems(20.0)
    assert found.text == "pbs or sge: 'qstat' failed (cannot connect to server)"


def test_a_batch_system_that_answers(commands):
    commands("condor_submit", "exit 0")
    commands("condor_q", "exit 0")
    (found,) = check_batch_systems(20.0)
    assert (found.state, found.topic) == ("ok", "cluster")
    assert "condor_submit is here" in found.text


@pytest.mark.usefixtures("commands")
def test_no_batch_system_is_no_fault():
    (found,) = check_batch_systems(1.0)
    assert found.state == "note"


def test_the_children_of_a_program_that_hangs_end_with_it(tmp_path):
    words = ["/bin/sh", "-c", f"sleep 60 & echo $! > {tmp_path}/child; wait"]
    done = doctor.run_bounded(words, 1.0)
    assert (done.code, done.how) == (None, "did not end in 1 s")
    stat = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    deadline = time.monotonic() + 10
    # a dead child may wait for somebody to take note of it
    while stat.exists() and stat.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_jax_that_is_broken(tmp_path, monkeypatch):
    (tmp_path / "jax.py").write_text("raise OSError('libcuda.so.1: no such device')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = doctor.check_devices(60.0)
    assert found.state == "broken"
    assert "libcuda.so.1: no such device" in found.text


def test_a_jax_that_hangs(tmp_path, monkeypatch):
    (tmp_path / "jax.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = doctor.check_devices(1.0)
    assert (found.state, found.text) == ("broken", "a small computation did not end in 1 s")


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """A function that installs a distribution with these requirements and modules."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def install(name, version="1.0", requires=(), extras=(), module=None):
        info = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {line}" for line in requires] + [f"Provides-Extra: {extra}" for extra in extras]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        if module is not None:
            (info / "top_level.txt").write_text(f"{name}\n")
            (tmp_path / f"{name}.py").write_text(module)

    return install


def test_packages_that_are_missing_or_too_old(distribution):
    distribution("oldpart", "0.3")
    distribution(
        "ourwhole",
        requires=["oldpart>=0.5", 'nosuchpart>=1; extra == "sky"', 'oldpart; extra == "all"'],
        extras=["sky", "all"],
    )
    assert doctor.check_software("ourwhole")[1:] == [
        Finding(
            "packages",
            "broken",
            "oldpart 0.3 where >=0.5 is asked for",
            "install crdist anew to get fitting versions",
        ),
        Finding("extra", "note", "sky: without nosuchpart", "install crdist's extra 'sky' if you need it"),
    ]


def test_packages_that_cannot_be_imported(distribution):
    distribution("badpart", module="raise ImportError('built for another numpy')\n")
    distribution("deadpart", module="import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    distribution("ourwhole", requires=["badpart", "deadpart"])
    assert [finding.text for finding in doctor.check_imports(60.0, "ourwhole")] == [
        "badpart is installed and cannot be imported (ImportError: built for another numpy)",
        "importing deadpart was ended by signal 11",
    ]


def test_a_folder_that_is_not_installed():
    (found,) = doctor.check_software("no-such-distribution")
    assert found.state == "broken"
    assert "no distribution 'no-such-distribution'" in found.text


@pytest.mark.parametrize(
    ("kind", "words"), [("tmpfs", "is held in memory"), ("lustre", "is on a network"), ("nfs4", "is on a network")]
)
def test_file_systems_worth_a_note(kind, words, tmp_path, monkeypatch):
    table = f"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:9 / {tmp_path} rw shared:7 - {kind} somewhere rw"
    assert doctor.filesystem_of(tmp_path / "below", table) == kind
    monkeypatch.setattr(place, "filesystem_of", lambda folder: kind)
    found = doctor.check_scratch(tmp_path)
    assert [finding.state for finding in found] == ["ok", "note"]
    assert words in found[1].text


def test_a_socket_path_that_is_too_long(tmp_path):
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    found = doctor.check_network(deep)
    assert [finding.state for finding in found] == ["ok", "note"]
    assert "too long for a unix socket" in found[1].text
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(OSError, match="too long"):
        probe.bind("x" * (place.SOCKET_PATH_BYTES + 1))


def test_cores_follow_the_affinity():
    program = (
        "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from crdist.commands.doctor import check_machine\nprint(check_machine()[0].text)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "1"
    assert [finding.topic for finding in check_machine()][:2] == ["cores", "memory"]


def test_a_broken_machine_says_so_and_exits_with_1(tmp_path):
    missing = tmp_path / "none"
    (tmp_path / "jax.py").write_text("raise OSError('no driver')\n")
    done = run_doctor("--scratch", str(missing), PYTHONPATH=str(tmp_path), PATH=str(tmp_path))
    assert done.returncode == 1
    assert f"broken  scratch    {missing}: no such folder; give another folder with --scratch\n" in done.stdout
    assert "broken  jax        a small computation failed (OSError: no driver); " in done.stdout
    assert "broken  imports    jax is installed and cannot be imported (OSError: no driver); " in done.stdout
    assert done.stdout.splitlines()[-1] == "3 broken: see the lines that begin so"
    assert "Traceback" not in done.stdout + done.stderr
