"""The run file of a tiny synthetic sky, the whole way in seconds once it is compiled."""

TINY = {
    "version": 1,
    "title": "tiny",
    "data": {
        "synthetic": {
            "truth": "prior",
            "length": 5.0,
            "slope": 6.0,
            "scale": 0.5,
            "offset": -21.0,
            "gas_nside": 2,
            "gas_n_shell": 10,
            "seed": 2,
        }
    },
    "grid": {"nside": 1, "n_shell": 5},
    "mask": {"kind": "none"},
    "inference": {
        "samples": 8,
        "draws": 2,
        "evidence": {"n_length": 4, "n_slope": 4},
        "schedule": {"n_iteration": 2, "n_iteration_next": 2, "early_iterations": 0, "update_iterations": 1},
    },
    "products": {
        "set": [
            "grid={x: [-12, 12], y: [-12, 12], z: [-2, 2], voxel: 1}",
            "products=[midplane, sky]",
            "quantity=n30",
        ]
    },
}
