"""Who receives the messages: the edge node. Needs numpy and constriction, no torch."""

__all__ = ["EdgeNode"]


def __getattr__(name: str):
    if name == "EdgeNode":  # only when asked for, so that the program can say that numpy is missing
        from utils.edge.node import EdgeNode

        return EdgeNode
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
