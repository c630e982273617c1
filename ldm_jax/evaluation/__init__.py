"""Evaluation: is a picture good, and does it show what was asked (paper Sec. 4, App. E.3)."""
