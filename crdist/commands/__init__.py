"""The commands of ``crdist``, one module a subject; `crdist.cli` puts them together."""
