"""Colour maps as tables of 256 colours.

The colour maps are perceptually uniform, so that equal steps of a map look like equal steps. Strings hold colours at
equal distances, as hexadecimal sRGB; linear interpolation gives the others back, to 1/255. Those of sequential colour
maps are every fifth colour of Matplotlib's table of the same name (by Nathaniel Smith and Stéfan van der Walt,
dedicated to the public domain, CC0).

Values of both signs need a diverging colour map, whose middle is neutral, and whose lightness falls alike to both
sides: 'coolwarm' is Matplotlib's table of that name, given by 33 colours, from Kenneth Moreland, "Diverging Color Maps
for Scientific Visualization", ISVC 2009.
"""

import functools

import torch

from ..errors import TimmAbnError

__all__ = ['COLORMAPS', 'DIVERGING_COLORMAP', 'SEQUENTIAL_COLORMAPS', 'colormap_table']

SEQUENTIAL_COLORMAPS = {
    'viridis': (
        '44015446085c471063481769481d6f482475472a7a46307e453781433d844142873f48893d4e8a3a538b38598c355e8d33638d31'
        '688e2e6d8e2c718e2a768e297b8e27808e25848e23898e218e8d20928c1f978b1e9c891fa18821a58524aa8328ae802eb37c35b7'
        '793dbc7446c06f50c46a5ac86465cb5e70cf577cd25089d54895d840a2da37b0dd2fbddf26cae11fd8e219e5e419f1e51dfde725'
    ),
    'inferno': (
        '00000402020c0504170a072210092d160b391e0c45260c512f0a5b380962400a67490b6a510e6c59106e61136e69166e71196e78'
        '1c6d801f6c88226a902568982766a02a63a82e5fb0315bb73557bf3952c63d4dcc4248d34743d94d3ddf5337e45a31e9612bed69'
        '25f1711ff47918f78212f98b0bfa9407fb9d07fca60cfcb014fbba1ffac42af8cd37f6d746f4e156f2ea69f2f27df5f992fcffa4'
    ),
    'magma': (
        '00000402020b0504160907200e0b2b140e361a104221114e29115a311165390f6e420f754a107952137c5a167e6219806a1c8172'
        '1f81792282812581892881912b81992d80a1307eaa337db2357bba3878c23b75ca3e72d2426fd9466be04c67e75263ec5860f160'
        '5df4695cf7725cf97b5dfb8560fc8e64fd9869fea16efeaa74feb47bfebd82fec68afecf92fed89afde2a3fdebacfcf4b6fcfdbf'
    ),
}

DIVERGING_COLORMAP = 'coolwarm'

COLORMAPS = {
    **SEQUENTIAL_COLORMAPS,
    DIVERGING_COLORMAP: (
        '3b4cc0445acc4d68d75775e16282ea6c8ef1779af782a5fb8db0fe98b9ffa3c2ffaec9fdb8d0f9c2d5f4ccd9eed5dbe6dddddd'
        'e5d8d1ecd3c5f1ccb9f5c4adf7bba0f7b194f7a687f49a7bf18d6fec7f63e57058de604dd55042cb3e38c0282fb40426'
    ),
}


@functools.cache
def colormap_table(name: str) -> torch.Tensor:
    """Return the 256 colours of a colour map, a key of ``COLORMAPS``, shape (256, 3), type uint8, sRGB."""
    if name not in COLORMAPS:
        raise TimmAbnError(f'colormap must be one of {", ".join(map(repr, COLORMAPS))}, got {name!r}.')
    anchors = torch.tensor(list(bytes.fromhex(COLORMAPS[name])), dtype=torch.float32).reshape(1, -1, 3)
    table = torch.nn.functional.interpolate(anchors.mT, size=256, mode='linear', align_corners=True)
    return table[0].T.round().to(torch.uint8)
