"""From a recipe to a trained adapter: run (the run folder) → model → batches → trainer."""
