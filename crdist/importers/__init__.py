"""Published maps in: each layout in which maps are published becomes a posterior store.

`import_map` recognises the layout, reads the file in pieces and writes a packed store; `LAYOUTS` names what
it knows.
"""

from __future__ import annotations

from crdist.importers.published import ImportOptions, MapLayout, PublishedMap
from crdist.importers.streaming import LAYOUTS, import_map

__all__ = ["LAYOUTS", "ImportOptions", "MapLayout", "PublishedMap", "import_map"]
