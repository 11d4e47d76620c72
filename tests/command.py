"""Run the real command line in a process of its own."""

import hashlib
import os
import subprocess
import sys


def crdist(*arguments, cwd=None, env=None):
    """Run ``crdist`` to its end."""
    return subprocess.run(
        _command(arguments), cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=300
    )


def start_crdist(*arguments, cwd=None):
    """Start ``crdist`` in a process group of its own."""
    return subprocess.Popen(
        _command(arguments), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def fingerprint(folder):
    """Every file below a folder with a digest of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def error_line(result, code=1):
    """The one line that a failed command prints, with no traceback."""
    assert result.returncode == code, (result.returncode, result.stdout, result.stderr)
    assert "Traceback" not in result.stderr, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("crdist: error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def _command(arguments):
    return [sys.executable, "-m", "crdist.cli", *map(str, arguments)]
