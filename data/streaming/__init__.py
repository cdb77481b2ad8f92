"""Image folders that are read while the network trains."""
