"""How a network trains."""
