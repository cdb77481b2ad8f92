"""What Python lacks; knows nothing of Deep Partial Updating."""
