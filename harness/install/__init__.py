"""An image written onto a disk, partitions of which are saved."""
