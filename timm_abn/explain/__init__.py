"""Explaining images: reading them, preprocessing and its way back, names of classes, overlays of photos."""
