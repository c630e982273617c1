"""The latent diffusion model as one object, and a run directory as such a model."""
