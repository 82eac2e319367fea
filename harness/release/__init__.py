"""What is said and published about images: metadata, checksums."""
