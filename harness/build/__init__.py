"""Builds reference images from distribution packages: no loop mounts, the same bytes on every host."""
