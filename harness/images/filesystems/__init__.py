"""Filesystems recognised and read, without mounting them."""
