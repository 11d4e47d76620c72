"""What a notebook asks of samples beside maps: lazily, through xarray, sample by sample, statistics last."""
