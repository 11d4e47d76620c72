"""Extension points: tables of what is built in and what installed packages add, through entry points.

A package adds an importer, an exporter, an emissivity model, a kind of product or a kind of cluster by naming it in
its metadata, in the group of the table. The names are read without importing anything; what stands behind a name is
imported when it is asked for, so that a package that is broken harms nobody who does not use it. A built-in name cannot
be taken over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any, Generic, TypeVar

from crdist.errors import CrdistError, DependencyError, RecipeError

__all__ = ["TABLES", "Plugin", "PluginTable", "plugins", "table"]

T = TypeVar("T")

TABLES: Mapping[str, str] = {
    "crdist.importers": "crdist.importers:LAYOUTS",
    "crdist.exporters": "crdist.exporters:EXPORTERS",
    "crdist.emissivity": "crdist.emission:MODELS",
    "crdist.products": "crdist_postproc.product_kinds:PRODUCT_KINDS",
    "crdist.clusters": "crdist_cluster.kinds:CLUSTER_KINDS",
}
"""Groups of entry points, and where the table of each is."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """What an installed package adds, as its metadata say."""

    group: str
    """Group of the entry point, a key of `TABLES`."""
    name: str
    """Name by which users ask for it."""
    value: str
    """Module and attribute, ``module:attribute``."""
    distribution: str
    """The package as it was installed."""
    version: str
    """Of the package."""

    def load(self) -> object:
        """Import what stands behind the name.

        Raises
        ------
        DependencyError
            If that fails: which package, which entry point, what error.
        """
        entry = metadata.EntryPoint(self.name, self.value, self.group)
        try:
            return entry.load()
        except (Exception, SystemExit) as error:  # a plug-in is anybody's code
            words = " ".join(f"{type(error).__name__}: {error}".split())
            raise DependencyError(f"{self}: cannot be loaded ({words}); update or remove that package") from error

    @property
    def package(self) -> str:
        """Package and version, in words."""
        return f"{self.distribution} {self.version}"

    def origin(self) -> dict[str, str]:
        """Package, version and entry point, for provenance."""
        entry = f"{self.name} = {self.value}"
        return {"distribution": self.distribution, "version": self.version, "entry_point": entry}

    def __str__(self) -> str:
        return f"{self.name!r} of {self.package} ({self.group}: {self.value})"


def plugins(group: str) -> tuple[Plugin, ...]:
    """What installed packages add to a table, by name; nothing is imported.

    Parameters
    ----------
    group : str
        A key of `TABLES`.
    """
    found = {
        Plugin(group, entry.name, entry.value, entry.dist.name, entry.dist.version)
        for entry in metadata.entry_points(group=group)
        if entry.dist is not None
    }
    return tuple(sorted(found, key=lambda plugin: (plugin.name, plugin.distribution)))


def table(group: str) -> PluginTable[Any]:
    """The table of a group of entry points; imports the part of crdist that it belongs to.

    Parameters
    ----------
    group : str
        A key of `TABLES`.
    """
    module, _, name = TABLES[group].partition(":")
    found: PluginTable[Any] = getattr(import_module(module), name)
    return found


class PluginTable(Mapping[str, T], Generic[T]):
    """Built-in things and those of installed packages, by name; the latter are imported when they are asked for.

    Parameters
    ----------
    group : str
        Group of entry points that adds to the table.
    kind : type
        What every entry must be.
    builtin : mapping
        What comes with crdist; these names cannot be taken over.
    what : str, optional
        What an entry must be, in words; default: the type's name.
    """

    def __init__(self, group: str, kind: type[T], builtin: Mapping[str, T], *, what: str = "") -> None:
        self.group = group
        self.builtin = dict(builtin)
        self._kind = kind
        self._what = what or kind.__name__
        self._loaded: dict[Plugin, T] = {}

    def __getitem__(self, name: str) -> T:
        if name in self.builtin:
            return self.builtin[name]
        plugin = self.plugin(name)
        if plugin is None:
            raise KeyError(name)
        if plugin not in self._loaded:
            self._loaded[plugin] = self._checked(plugin)
        return self._loaded[plugin]

    def __contains__(self, name: object) -> bool:
        return name in self.builtin or any(plugin.name == name for plugin in plugins(self.group))

    def __iter__(self) -> Iterator[str]:
        yield from self.builtin
        yield from dict.fromkeys(item.name for item in plugins(self.group) if item.name not in self.builtin)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def plugin(self, name: str) -> Plugin | None:
        """The plug-in that has a name; None if it is built in or not known.

        Raises
        ------
        RecipeError
            If several packages claim the name.
        """
        if name in self.builtin:
            return None
        claims = [plugin for plugin in plugins(self.group) if plugin.name == name]
        if len(claims) > 1:
            raise RecipeError(f"{' and '.join(map(str, claims))} have the same name; remove one of the packages")
        return claims[0] if claims else None

    def working(self) -> tuple[dict[str, T], list[str]]:
        """All that can be loaded, by name, and one line for each plug-in that cannot."""
        found: dict[str, T] = {}
        faults = []
        for name in self:
            try:
                found[name] = self[name]
            except CrdistError as error:
                faults.append(str(error))
        return found, faults

    def origin(self, name: str) -> dict[str, dict[str, str]]:
        """What provenance says of a name: ``{"plugin": {...}}``, or nothing where it is built in."""
        plugin = self.plugin(name)
        return {} if plugin is None else {"plugin": plugin.origin()}

    def clashes(self) -> list[Plugin]:
        """Plug-ins that claim a built-in name and are never used."""
        return [plugin for plugin in plugins(self.group) if plugin.name in self.builtin]

    def _checked(self, plugin: Plugin) -> T:
        item = plugin.load()
        if not isinstance(item, self._kind):
            raise DependencyError(
                f"{plugin}: is a {type(item).__name__}, expected a {self._what}; update or remove that package"
            )
        own = getattr(item, "name", plugin.name)
        if own != plugin.name:
            raise DependencyError(f"{plugin}: calls itself {own!r}; the entry point must have the same name")
        return item
