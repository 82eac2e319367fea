"""What a machine is made of: values that QEMU's command line is written from."""
