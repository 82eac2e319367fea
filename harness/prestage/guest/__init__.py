"""What a host is given to bring the images into its container storage."""
