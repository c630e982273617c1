"""Sec. 3.3: conditioning mechanisms, the encoders tau_theta and how a condition enters."""
