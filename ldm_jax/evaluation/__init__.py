"""Evaluation: the quality of images and their agreement with the condition (Sec. 4, App. E.3)."""
