"""The dashboard: serve it from where the stores are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["serve"]

NEEDED = ("bokeh", "panel")


def serve(
    products: Annotated[list[Path], typer.Argument(help="Products stores, finished or still being written.")],
    posterior: Annotated[
        Path | None, typer.Option(help="Posterior of an inference: its skies, residuals and course are shown, too.")
    ] = None,
    gas: Annotated[
        Path | None, typer.Option(help="Products of a gas map, whose column is drawn as contours over projections.")
    ] = None,
    tcp: Annotated[
        bool, typer.Option("--tcp", help="Listen on 127.0.0.1 with a token in the URL, not on a unix socket.")
    ] = False,
    port: Annotated[int, typer.Option(help="With --tcp; 0 for one that is free.")] = 5006,
    socket: Annotated[Path | None, typer.Option(help="Unix socket, in a folder of your own with mode 0700.")] = None,
    address: Annotated[
        str, typer.Option(help="With --tcp: listen elsewhere, behind a proxy; needs --token-file and --origin.")
    ] = "127.0.0.1",
    token_file: Annotated[
        Path | None, typer.Option(help="With --tcp: file with the token, mode 0600; default: a fresh one, printed.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="What all paths start with, such as /node/n1/5006.")] = "",
    origin: Annotated[
        list[str] | None, typer.Option(help="Host (or host:port) of a proxy whose pages may connect; may be repeated.")
    ] = None,
    xheaders: Annotated[
        bool, typer.Option("--xheaders", help="A proxy tells scheme and client in X- headers.")
    ] = False,
    warm: Annotated[
        bool, typer.Option("--warm", help="Make a page before the first is asked for; keep the next one ready.")
    ] = False,
) -> None:
    """Show products in a browser: maps, sky, profiles, samples. Needs no internet, lets nobody else in."""
    from importlib.util import find_spec

    from crdist.errors import DependencyError, RecipeError

    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise DependencyError(f"the dashboard needs {', '.join(missing)}; install the extra 'dashboards'")
    if not tcp and (token_file is not None or port != 5006):
        raise RecipeError("--token-file and --port go with --tcp; a unix socket needs neither")
    from crdist_dashboards.app.stores import Stores
    from crdist_dashboards.serve import Place
    from crdist_dashboards.serve import serve as serve_stores

    place = Place(
        socket_path=socket,
        port=port if tcp else None,
        address=address,
        token_file=token_file,
        prefix=prefix,
        xheaders=xheaders,
        origins=tuple(origin or ()),
    )
    serve_stores(Stores(tuple(products), posterior, gas), place, warm=warm)
