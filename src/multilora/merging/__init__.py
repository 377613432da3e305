"""Folding adapters into a base model's files, tensor by tensor: W + Σ w_k ΔW_k in fp32, rounded once."""
