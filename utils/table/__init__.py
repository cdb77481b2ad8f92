"""From run folders to the paper's table."""
