"""What can be chosen by name when a network is made; torch is not imported, since command lines offer it quickly."""

__all__ = ['GATES', 'INSERTIONS', 'MECHANISMS', 'PADDING_MODES']

MECHANISMS = ('residual', 'product')
GATES = ('features', 'centred', 'tokens')
INSERTIONS = ('gating', 'neutral', 'explaining')
PADDING_MODES = ('zeros', 'replicate')
