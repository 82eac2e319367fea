"""Why two images differ."""
