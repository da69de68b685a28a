"""Statements to learn from: recorded or generated, checked, split without leakage; vignettes with computed truth."""
