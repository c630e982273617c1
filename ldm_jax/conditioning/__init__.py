"""Sec. 3.3: conditioning, that is the encoders tau_theta and how the UNet gets their output."""
