"""How good it is: metrics with intervals, suites, report, model card, reviewers' labels."""
