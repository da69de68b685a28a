"""Reviewers' decisions -> a challenger that has learnt them -> champion, if it is better and nowhere worse."""
