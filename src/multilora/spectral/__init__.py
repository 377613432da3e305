"""Spectra of adapters: singular values of ΔW, from its factors and never from the product."""
