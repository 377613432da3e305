"""Figures for papers, by matplotlib's objects: no pyplot, so no window and no figure that stays."""
