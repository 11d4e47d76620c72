"""Samples for crdist: a synthetic galaxy whose posterior-like samples come in a published layout."""
