"""`sample`: draw, edit, interpolate, invert, reconstruct."""
