"""What a disk image file wears: container formats and compressions, each opened as a `Block`."""
