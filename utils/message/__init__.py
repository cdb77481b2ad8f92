"""What crosses the link: the update message. Needs numpy and constriction, no torch."""
