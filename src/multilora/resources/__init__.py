"""What a run takes, by arithmetic: structure (no weights) → parameters → blocks → memory."""
