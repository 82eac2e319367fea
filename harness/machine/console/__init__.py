"""The serial console: read, recorded, watched and typed at."""
