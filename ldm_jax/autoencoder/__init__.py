"""Sec. 3.1: perceptual image compression, the first stage."""
