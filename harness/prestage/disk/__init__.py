"""The folder on a partition at the end of a disk."""
