"""One HTML page for a collaborator without the cluster: figures, numbers, provenance and a volume to turn around."""

from __future__ import annotations

import base64
import html
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crdist.errors import RecipeError
from crdist.frames import Frame
from crdist_dashboards.numbers import Number, numbers_of
from crdist_dashboards.scales import unicode_units

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["write_report"]

PAGE_BYTES = 64 * 1024**2
"""More than this no mail and few browsers take well."""

POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; font-src data:; "
    "script-src 'unsafe-inline' 'unsafe-eval' blob: data:; connect-src data: blob:; worker-src blob:; frame-src 'self'"
)
"""The browser itself refuses every request to elsewhere."""

STYLE = """
:root { color-scheme: light dark; --text: #1c2330; --soft: #5b6577; --line: #d9dee7; --page: #ffffff; --card: #f6f8fb; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6eaf2; --soft: #9aa5b8; --line: #2c3444; --page: #11151d; --card: #181e29; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .8rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
p.lead, figcaption, .note { color: var(--soft); }
p.warning { border-left: 4px solid #d1495b; padding: .2rem .8rem; background: var(--card); }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
figure { margin: 0 0 2.2rem; }
figure img { max-width: 100%; height: auto; background: #ffffff; border-radius: 6px; padding: .6rem; display: block; }
figcaption { margin-top: .5rem; font-size: .93rem; }
iframe { width: 100%; height: min(72vh, 44rem); border: 0; border-radius: 6px; background: #0d1017; }
pre { background: var(--card); padding: .8rem 1rem; overflow-x: auto; border-radius: 6px; font-size: .82rem; }
details > summary { cursor: pointer; }
"""

SCRIPT = """
const frame = document.getElementById("volume");
if (frame) {
  const page = new TextDecoder().decode(
    Uint8Array.from(atob(document.getElementById("volume-page").textContent), c => c.charCodeAt(0)));
  new IntersectionObserver((seen, watcher) => {
    if (seen.some(entry => entry.isIntersecting)) { watcher.disconnect(); frame.srcdoc = page; }
  }, { rootMargin: "200px" }).observe(frame);
}
"""


def write_report(
    products: str | Path, out: str | Path, *, posterior: str | Path | None = None, gas: str | Path | None = None
) -> Path:
    """Write the report of a products store as one HTML file that asks for nothing from elsewhere.

    Parameters
    ----------
    products : path
        A products store.
    out : path
        File to write, ``.html``; an existing one is replaced when the new one is whole.
    posterior : path, optional
        The posterior that the products were made from: adds the figures of its inference.
    gas : path, optional
        A products store of the gas: adds its contours.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    RecipeError
        If ``out`` is no .html file.
    SchemaError
        If a store is not what it should be, or holds nothing that can be shown.
    """
    from crdist.store import open_products

    target = Path(out)
    if target.suffix.lower() not in (".html", ".htm"):
        raise RecipeError(f"{target}: a report is an .html file, got {target.suffix or 'no suffix'!r}")
    with open_products(products, allow_partial=True) as tree:
        parts = [
            _heading(tree, Path(products)),
            _numbers(numbers_of(tree)),
            _figures(products, posterior, gas),
            _volume(tree),
            _provenance(tree),
        ]
    title = html.escape(_title(tree))
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n<main>\n{chr(10).join(filter(None, parts))}\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _title(tree: xr.DataTree) -> str:
    quantity = tree.attrs["quantity"]
    name = str(quantity.get("long_name") or quantity["name"])
    return name[:1].upper() + name[1:]


def _heading(tree: xr.DataTree, path: Path) -> str:
    quantity, frame = tree.attrs["quantity"], Frame.from_dict(dict(tree.attrs["frame"]))
    source = tree.attrs.get("provenance", {}).get("source", {})
    unit = unicode_units(str(quantity.get("units", "")))
    facts = [
        f"{tree.attrs['n_sample']} posterior samples",
        f"in {unit}" if unit else "",
        f"{frame.name} frame, R₀ = {frame.r0_kpc:g} kpc, z of the Sun {frame.z_sun_kpc:g} kpc",
        f"from {source['name']}" if isinstance(source, Mapping) and source.get("name") else "",
    ]
    lines = [
        f"<h1>{html.escape(_title(tree))}</h1>",
        f'<p class="lead">{html.escape("; ".join(filter(None, facts)))}</p>',
        "<p>Every operation comes first, sample by sample; mean, standard deviation and significance over the samples "
        "come last. The standard deviation of an integral is that of the samples' integrals.</p>",
    ]
    if tree.attrs.get("status") != "complete":
        lines.append(
            f'<p class="warning">{html.escape(str(path))} is still being computed: what is missing here is not '
            "finished yet.</p>"
        )
    return "\n".join(lines)


def _numbers(numbers: Sequence[Number]) -> str:
    if not numbers:
        return ""
    rows = "\n".join(map(_row, numbers))
    return f"<h2>Numbers</h2>\n<p class='note'>Mean ± standard deviation over samples.</p>\n<table>\n{rows}\n</table>"


def _row(number: Number) -> str:
    units = unicode_units(number.units) if np.isfinite(number.value) else ""
    cells = [html.escape(text) for text in (number.what, f"{number.text} {units}".strip(), number.note)]
    return f"<tr><td>{cells[0]}</td><td class='number'>{cells[1]}</td><td class='note'>{cells[2]}</td></tr>"


def _figures(products: str | Path, posterior: str | Path | None, gas: str | Path | None) -> str:
    from crdist_dashboards.figures import figures

    blocks = []
    with tempfile.TemporaryDirectory(prefix="crdist-report-") as folder:
        written = figures(products, folder, posterior=posterior, gas=gas, formats=("png",), say=lambda _: None)
        for text in (path for path in written if path.suffix == ".txt"):
            title, _, rest = text.read_text(encoding="utf-8").partition("\n")
            caption = " ".join(rest.partition("\nProvenance\n")[0].split())
            image = text.with_suffix(".png").read_bytes()
            data = base64.b64encode(image).decode()
            # the header's first number is the width; print has four dots where a screen has one or two
            wide = int.from_bytes(image[16:20], "big") * 0.6
            blocks.append(
                f'<figure><img alt="{html.escape(title, quote=True)}" style="width: {wide:.0f}px" '
                f'src="data:image/png;base64,{data}">'
                f"<figcaption><b>{html.escape(title)}.</b> {html.escape(caption)}</figcaption></figure>"
            )
    return "<h2>Figures</h2>\n" + "\n".join(blocks)


def _volume(tree: xr.DataTree) -> str:
    from crdist_dashboards.scene import VolumeScene, scene_html

    for node in tree.subtree:
        product = node.to_dataset()
        if product.attrs.get("kind") != "volume" or not bool(product["mean"].notnull().any()):
            continue
        quantity = tree.attrs["quantity"]
        label = f"{quantity.get('long_name') or quantity['name']}, mean of {tree.attrs['n_sample']} samples"
        scene = VolumeScene(
            np.asarray(product["mean"].values),
            (_limits(product, "x"), _limits(product, "y"), _limits(product, "z")),
            Frame.from_dict(dict(tree.attrs["frame"])),
            label,
            str(product["mean"].attrs.get("units", "")),
        )
        page, notes = scene_html(scene)
        data = base64.b64encode(page.encode()).decode()
        words = "; ".join([*notes, "turn it with the mouse, zoom with the wheel"])
        return (
            f"<h2>The volume</h2>\n<figure>\n<iframe id='volume' title='{html.escape(label, quote=True)}'></iframe>\n"
            f"<figcaption><b>{html.escape(label[:1].upper() + label[1:])}.</b> {html.escape(words)}.</figcaption>\n"
            f"</figure>\n<script id='volume-page' type='text/plain'>{data}</script>"
        )
    return ""


def _limits(product: xr.Dataset, axis: str) -> tuple[float, float]:
    """Outer edges of evenly spaced voxels."""
    centres = np.asarray(product[axis].values, dtype=np.float64)
    half = (centres[-1] - centres[0]) / (2 * (centres.size - 1)) if centres.size > 1 else 0.5
    return float(centres[0] - half), float(centres[-1] + half)


def _provenance(tree: xr.DataTree) -> str:
    import yaml

    def shown(name: str, content: Any) -> str:
        # through JSON: attributes are plain data, and YAML would tag what is not
        text = yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False, default_flow_style=None, width=100)
        return f"<details><summary>{name}</summary><pre>{html.escape(text)}</pre></details>"

    return "\n".join(
        [
            "<h2>How it was made</h2>",
            shown("Source and versions", tree.attrs.get("provenance", {})),
            shown("Recipe: the same one makes the same products again", tree.attrs.get("recipe", {})),
            shown("Frame", tree.attrs["frame"]),
        ]
    )
