"""Weights and configurations from elsewhere, fetched and checked before they are used; below the registered names."""
