"""What a release consists of: pull specs, lists of them, and what may be wrong with a list."""
