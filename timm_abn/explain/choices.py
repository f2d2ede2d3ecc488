"""What can be chosen by name when images are explained; torch is not imported, since command lines offer it quickly."""

__all__ = ['BASELINES', 'METHODS']

BASELINES = ('mean', 'black', 'blur')  # see ``timm_abn.explain.metrics.make_baseline``

# the names of ``timm_abn.explain.methods.EXPLAINERS``; the last three are other packages
METHODS = (
    'attention',
    'class_map',
    'cam',
    'grad_cam',
    'recipro_cam',
    'rollout',
    'random',
    'centre',
    'pytorch_grad_cam',
    'torchcam',
    'captum',
)
