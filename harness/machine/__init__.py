"""Machines: one QEMU process each, booted or restored, watched while it runs and thrown away afterwards."""
