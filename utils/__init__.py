"""Deep Partial Updating: the algorithm, the rounds, and what they leave behind."""
