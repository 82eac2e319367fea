"""kola's external tests: executables with a header, which run in a guest. Unmodified, and without kola."""
