"""Who receives the messages: the edge node. Needs no torch."""
