"""Ways into a guest: the channel and ssh."""
