"""What can be chosen by name when a network is made; torch is not imported, since command lines offer it quickly."""

__all__ = ['MECHANISMS']

MECHANISMS = ('residual', 'product')
