"""Explanations, and arithmetic on their maps; imported by the networks that return them."""
