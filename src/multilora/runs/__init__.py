"""What a folder is: a run, a comparison, an adapter, a model."""
