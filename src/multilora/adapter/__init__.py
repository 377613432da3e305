"""Adapter folders: their configuration, reading them layer by layer, making them from a LoRA, exporting them."""
