"""`python -m ldm_jax evaluate`: judges a model, or any set of images."""
