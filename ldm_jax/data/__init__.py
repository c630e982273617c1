"""Data: embedded scenes, TFDS and folder sources, and the loader."""
