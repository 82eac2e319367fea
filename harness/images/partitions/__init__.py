"""How a disk is divided: partition tables, and what each partition holds."""
