"""Families of images: one or a few stored whole, all others as recipes from those."""
