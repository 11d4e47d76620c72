"""Products with a block that does harm. A module of its own, so that workers can import it."""

import errno
import os
from dataclasses import replace


class Poisoned:
    """A product, but for what some of its blocks do when they are computed."""

    def __init__(self, product, harm, indices):
        self._product, self._harm, self._indices = product, harm, indices

    def __getattr__(self, name):
        if name.startswith("__") or name == "_product":
            raise AttributeError(name)
        return getattr(self._product, name)

    def compute(self, block, samples, weight):
        if block.index in self._indices:
            self._harm()
        return self._product.compute(block, samples, weight)

    def together(self, kind):
        return None if kind == "native" else self._product.together(kind)

    def of_columns(self, block, found):
        if block.index in self._indices:
            self._harm()
        return self._product.of_columns(block, found)


class JoinedHereAlone(Poisoned):
    """A product whose last step ends every process but the one that made this."""

    def __init__(self, product):
        super().__init__(product, fail, ())
        self._process = os.getpid()

    def finish(self, partials):
        if os.getpid() != self._process:
            end_the_worker()
        return self._product.finish(partials)


def end_the_worker():
    os._exit(1)


def fail():
    raise ZeroDivisionError("a number that is none")


def fill_the_disk():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def poison(plan, name, harm, indices=(0,)):
    """A plan, one product of which is poisoned."""
    jobs = tuple(
        replace(job, product=Poisoned(job.product, harm, frozenset(indices))) if job.product.name == name else job
        for job in plan.jobs
    )
    return replace(plan, jobs=jobs)
