"""Figures of what a products store holds. They read results and compute no science."""
