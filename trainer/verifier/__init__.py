"""The verifier: a cross-encoder that reads a recommendation beside a statement and says whether they contradict."""
