"""Base models: loading, structure, weights as files, quantisation, what can be adapted."""
