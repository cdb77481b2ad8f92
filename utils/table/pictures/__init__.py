"""Figures of collated runs and of sweeps, and the layers' counts behind one of them."""
