"""Who receives the messages: the edge node. Needs numpy and constriction, no torch."""

from utils.edge.node import EdgeNode

__all__ = ["EdgeNode"]
