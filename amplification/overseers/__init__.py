"""Overseers, one file each, all with the protocol of `amplification.overseer`."""
