"""What reviewers decide on flags, and what follows from several decisions on one flag."""
