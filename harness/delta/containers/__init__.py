"""What a container is made of besides its disk: taken apart to a plan, and put together again bit for bit."""
