"""Latent diffusion models in JAX."""
