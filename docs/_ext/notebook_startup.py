"""What a notebook's kernel runs first when the site is built: ``%%sh`` that prints as if into a file, in one piece.

IPython's own prints in pieces of 100 characters, and its kernel asks commands for colours.
"""

import os
import subprocess
import sys
from pathlib import Path

from IPython import get_ipython

COLOURS = {"FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE"}


def sh(line: str, cell: str) -> None:
    """Run a cell's commands; the first that fails ends the notebook."""
    environment = {key: value for key, value in os.environ.items() if key not in COLOURS}
    command = ["sh", "-e", "-c", cell]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, check=False
    )
    # commands name themselves by their path, which is another one for a reader
    print(done.stdout.replace(f"{Path(sys.executable).parent}/", ""), end="")
    done.check_returncode()


get_ipython().register_magic_function(sh, "cell", "sh")  # type: ignore[no-untyped-call]
