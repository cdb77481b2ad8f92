"""Samples: where they come from, when they arrive, and how they reach the network."""
