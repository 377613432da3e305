"""What is needed to make the package's contents, and not to use it."""
