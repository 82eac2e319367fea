"""The prestage folder: an archive an image, pulled from registries and verified."""
