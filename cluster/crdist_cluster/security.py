"""Keys of one run: scheduler, workers and driver talk over TLS, and nobody else is let in."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from crdist.errors import DependencyError, RunError

if TYPE_CHECKING:
    from distributed import Security

__all__ = ["temporary_security"]

VALID_DAYS = 365
OPENSSL_SECONDS = 30.0


@contextmanager
def temporary_security(folder: Path) -> Iterator[Security]:
    """A key and a certificate of this run's own in ``folder``, which is open to its owner alone and removed at the end.

    Whoever does not hold the certificate's key is refused by the scheduler, and by the workers.

    Parameters
    ----------
    folder : Path
        On a disk that the nodes share. What an earlier run left in it is removed.

    Raises
    ------
    DependencyError
        If the command ``openssl`` is not there.
    RunError
        If it fails.
    """
    from distributed import Security

    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700)
    try:
        # the user's umask may have taken more than it should have
        folder.chmod(0o700)
        key, certificate = folder / "key.pem", folder / "certificate.pem"
        _make_key(key, certificate)
        roles = ("client", "scheduler", "worker")
        yield Security(
            require_encryption=True,
            tls_ca_file=str(certificate),
            **{f"tls_{role}_key": str(key) for role in roles},
            **{f"tls_{role}_cert": str(certificate) for role in roles},
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make_key(key: Path, certificate: Path) -> None:
    program = shutil.which("openssl")
    if program is None:
        raise DependencyError(
            "TLS needs the command openssl, which is not on the PATH; install it, or set 'tls: false' in the recipe "
            "where nobody else can reach the cluster's network"
        )
    os.close(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    command = [
        *(program, "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-sha256"),
        *("-days", str(VALID_DAYS), "-subj", "/CN=crdist", "-addext", "subjectAltName=DNS:dask-internal"),
        *("-keyout", str(key), "-out", str(certificate)),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=OPENSSL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunError(f"openssl could not make the run's TLS key: {error}") from error
    if done.returncode:
        said = " ".join(done.stderr.split())[-300:]
        raise RunError(f"openssl could not make the run's TLS key (exit status {done.returncode}): {said}")
