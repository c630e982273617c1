"""Sec. 3.2: latent diffusion models, the second stage."""
