"""What an explanation holds, and arithmetic on its maps; below the networks that return it."""
