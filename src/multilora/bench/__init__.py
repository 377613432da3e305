"""Measuring what methods cost on a machine: time in interleaved rounds, and bytes by kind."""
