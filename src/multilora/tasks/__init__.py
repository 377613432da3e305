"""The tasks: one file per kind of data set."""
