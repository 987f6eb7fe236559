"""What pools are made of."""
