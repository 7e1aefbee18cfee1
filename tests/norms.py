"""Batch norms for tests: those of a new network do nothing that could be got wrong."""

import torch
from torch import nn


def stirred(network: nn.Module) -> nn.Module:
    """The network in eval mode, with batch norms that do something."""
    torch.manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.7, 1.3), nn.init.normal_(layer.bias, std=0.2)
            nn.init.normal_(layer.running_mean, std=0.2), nn.init.uniform_(layer.running_var, 0.7, 1.3)
    return network.eval()
