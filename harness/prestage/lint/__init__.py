"""What is known to go wrong in other people's configs for this."""
