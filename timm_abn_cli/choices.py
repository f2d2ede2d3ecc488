"""What a command line offers by name. The library says the same, but only to those who wait for it to be imported."""

__all__ = [
    *('BASELINES', 'COLORMAPS', 'EXPLAINED_BY', 'INTERPOLATIONS', 'MECHANISMS', 'METHODS', 'PROBABILITIES', 'SCALES'),
    'SHOWN_MAPS',
]

BASELINES = ('mean', 'black', 'blur')
COLORMAPS = ('viridis', 'inferno', 'magma')
EXPLAINED_BY = ('attention', 'class_map', 'contrast', 'product')
INTERPOLATIONS = ('bilinear', 'bicubic')
MECHANISMS = ('residual', 'product')
METHODS = (
    *('attention', 'class_map', 'cam', 'grad_cam', 'recipro_cam', 'rollout', 'random', 'centre'),
    *('pytorch_grad_cam', 'torchcam', 'captum'),
)
PROBABILITIES = ('softmax', 'sigmoid')
SCALES = ('own', 'common', 'absolute')
SHOWN_MAPS = ('attention', 'class', 'contrast', 'product')
