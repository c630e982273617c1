"""Sec. 3.2, 4.1: drawing z_0 from the trained model, one `lax.scan` program a solver."""
