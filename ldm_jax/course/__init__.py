"""The exercises of `notebooks/`: what a right answer is, and what each common mistake is called.

A module for each notebook (`noise` for 6) holds its exercises; `exercise` says what an exercise is.
"""
