"""What of timm's model tests cannot hold for an Attention Branch Network, and why.

Each entry is expected to fail: one that passes after all makes the run fail, so that the list can only shrink.
"""

# test id without the path, as a wildcard pattern -> reason
EXCEPTIONS: dict[str, str] = {}
