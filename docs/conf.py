"""How Sphinx builds the documentation; nothing is fetched from elsewhere, neither here nor by a reader's browser."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import crdist

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
# notebooks call the command `crdist`, which lies beside the interpreter that builds the site
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
# what a notebook prints does not depend on who builds it
os.environ.update({"COLUMNS": "110", "NO_COLOR": "1"})
# nor on how that person's IPython is set up
ipython = Path(tempfile.mkdtemp(prefix="crdist-docs-"))
atexit.register(shutil.rmtree, ipython, ignore_errors=True)
(ipython / "profile_default" / "startup").mkdir(parents=True)
shutil.copy(HERE / "_ext" / "notebook_startup.py", ipython / "profile_default" / "startup")
os.environ["IPYTHONDIR"] = str(ipython)

project = "crdist"
author = "The crdist developers"
copyright = author
version = release = crdist.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "generated_reference",
]
exclude_patterns = ["_build", "_ext", "**/.ipynb_checkpoints"]
root_doc = "index"

myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3

nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 170
nb_merge_streams = True

default_role = "py:obj"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
maximum_signature_line_length = 130

html_theme = "furo"
html_title = f"crdist {release}"
html_static_path = ["_static"]
html_css_files = ["crdist.css"]
html_show_sourcelink = False
html_copy_source = False
pygments_style = "tango"
pygments_dark_style = "native"
