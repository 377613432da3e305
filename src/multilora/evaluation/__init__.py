"""Scores of a model on the tasks: lm-evaluation-harness runs the model, `results` turns its answers into scores."""
