"""The page of a study: what was trained, what came out, and what training changed in the weights."""
