"""The QEMU process: its command line, its life, its monitor."""
