"""What can be chosen by name when a network is made; torch is not imported, since command lines offer it quickly."""

__all__ = ['ATTENTION_MAPS', 'GATES', 'INITS', 'MECHANISMS', 'MULTI_TASK_ATTENTION_MAPS', 'PADDING_MODES']

MECHANISMS = ('residual', 'product')
GATES = ('features', 'centred', 'tokens')
INITS = ('random', 'neutral')
ATTENTION_MAPS = ('sigmoid', 'sum_log')
MULTI_TASK_ATTENTION_MAPS = ('sigmoid', 'raw')
PADDING_MODES = ('zeros', 'replicate')
