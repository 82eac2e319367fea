"""The CoreOS-like system inside an image: its tree, boot entries and stamp files."""
