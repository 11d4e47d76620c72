"""Stores out: each form in which another tool reads posterior samples or products.

`export_store` reads a store in pieces and writes a file or folder whole or not at all; `EXPORTERS` names the forms.
"""

from __future__ import annotations

from crdist.exporters.exporter import Exporter, ExportOptions
from crdist.exporters.writing import EXPORTERS, export_store

__all__ = ["EXPORTERS", "ExportOptions", "Exporter", "export_store"]
