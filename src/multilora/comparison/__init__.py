"""The paper's experiment: methods × regimes × seeds, learning rates swept, and one table with intervals."""
