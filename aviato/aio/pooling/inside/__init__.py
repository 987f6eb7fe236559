"""What runs inside the sandboxes of a pool."""
