"""A small ResNet-18."""

from functools import partial

import pytest
from monai.networks.nets.resnet import ResNet, ResNetBlock

from sscct_lib.deep import networks


@pytest.fixture(scope="module")
def narrow_resnet():
    """Give ResNet-18 an eighth of its channels: its layers and their names in a 64th of its 132 MB."""
    whole, widths = networks.build_resnet18, [8, 16, 32, 64]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "resnet18", partial(ResNet, ResNetBlock, [2, 2, 2, 2], widths))
        patch.setattr(networks, "build_resnet18", lambda: (whole()[0], widths[-1]))
        yield
