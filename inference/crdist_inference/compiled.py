"""Where compiled code is kept from run to run: compiling takes longer than a small inference."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

__all__ = ["compiled_folder", "keep_compiled"]

SHORTEST_SECONDS = 0.2


def compiled_folder() -> Path:
    """The folder of this kind of processor in the user's cache.

    A home folder may be shared by machines with other processors, whose code must not be mixed.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        kind = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        kind = ""
    digest = hashlib.sha256(f"{platform.machine()} {kind}".encode()).hexdigest()[:12]
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crdist" / f"jax-{digest}"


def keep_compiled() -> None:
    """Let JAX keep what it compiles, unless the user has set a place of their own or one cannot be made."""
    import jax

    if getattr(jax.config, "jax_compilation_cache_dir", None):
        return
    folder = compiled_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST_SECONDS)
