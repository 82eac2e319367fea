"""Recipes: a file made again, bit for bit, from others that are there already."""
