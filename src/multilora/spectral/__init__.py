"""What training changed: singular values and vectors of ΔW, measures of them, and how ΔW relates to W."""
