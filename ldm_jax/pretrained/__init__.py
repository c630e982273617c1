"""Reads and writes published weights: files, downloads, parameter names and array layouts."""
