"""Data sets, transforms and loaders for timm's scripts."""
