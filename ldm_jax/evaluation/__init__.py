"""Evaluation: is an image good, and does it show what was asked (paper Sec. 4, App. E.3)."""
