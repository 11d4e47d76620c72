"""What works on this machine and what does not: the software, the devices, the disk and the loopback network.

Each check gives one `Finding`, or several. Batch systems and the limits of containers are the business of
`crdist.commands.doctor`, which knows the stages.
"""

from __future__ import annotations

from crdist.doctor.findings import Finding, is_sound
from crdist.doctor.place import check_network, check_scratch, check_store_in, filesystem_of
from crdist.doctor.programs import Done, run_bounded
from crdist.doctor.software import check_devices, check_imports, check_plugins, check_software, check_threading

__all__ = [
    "Done",
    "Finding",
    "check_devices",
    "check_imports",
    "check_network",
    "check_plugins",
    "check_scratch",
    "check_software",
    "check_store_in",
    "check_threading",
    "filesystem_of",
    "is_sound",
    "run_bounded",
]
