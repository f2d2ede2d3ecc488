"""Entrypoints of torch.hub: every model of timm_abn under its name, without installing the package.

torch.hub.list('OWNER/timm-abn')
torch.hub.help('OWNER/timm-abn', 'abn_resnet50')
torch.hub.load('OWNER/timm-abn', 'abn_resnet50', num_classes=10)
"""

import importlib.util
import typing

dependencies = ['torch', 'torchvision', 'timm', 'safetensors', 'huggingface_hub']

_DOCSTRING = """{summary}

Args:
    pretrained: Whether to load trained weights, or their name; available: {weights}.
    **kwargs: Passed to ``timm.create_model``, such as ``num_classes=10``{example}.

Returns:
    The model. In evaluation mode it returns logits of shape (B, num_classes){explain}.
"""
_EXPLAIN = """; ``model.explain(images)``
    also returns an attention map, class maps and the logits of the attention branch"""


def _entrypoints() -> dict[str, typing.Callable]:
    import timm

    import timm_abn

    package = f'{timm_abn.__name__}.'
    names = [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith(package)]
    return {name: _entrypoint(name) for name in names}


def _entrypoint(name: str) -> typing.Callable:
    import timm

    def create(pretrained: bool | str = False, **kwargs: typing.Any) -> typing.Any:
        tag = f'.{pretrained}' if isinstance(pretrained, str) else ''
        return timm.create_model(f'{name}{tag}', pretrained=bool(pretrained), **kwargs)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = _DOCSTRING.format(
        summary=timm.model_entrypoint(name).__doc__.splitlines()[0],
        weights=', '.join(repr(tagged.partition('.')[2]) for tagged in timm.list_pretrained(f'{name}.*')) or 'none',
        example=" and ``backbone='convnext_tiny'``" if name in ('abn', 'attached') else '',
        explain=_EXPLAIN if name.startswith(('abn', 'attached', 'cam')) else '',
    )
    return create


# without a dependency there are no entrypoints, and torch.hub itself says what is missing when it is asked for a model
if all(importlib.util.find_spec(name) for name in dependencies):
    globals().update(_entrypoints())
