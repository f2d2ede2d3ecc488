"""Driving timm's own scripts, unmodified, for Attention Branch Networks: what ``timm-abn-train`` is made of."""
