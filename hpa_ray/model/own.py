"""The two networks that come from nowhere else. Before: torchvision. After: model/backbones."""

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

# B images, C stains, S side in px, K classes, W width of a bottleneck, s side of a map


class IdentityBlock(nn.Module):
    """A bottleneck block without projection, with one more 3x3 convolution: 1x1 - 3x3 - 3x3 - 1x1.

    A student report on these data describes its enhanced ResNet50 as one with one more convolution, with batch norm and
    ReLU, in the identity block; the place in the block and the size are left open. Here it follows the present 3x3
    convolution, at the width of the bottleneck: there a 3x3 has 9 W^2 weights, on the block's own 4 W channels it would
    have 144 W^2, and it widens the field of view, as a 1x1 would not. In all twelve blocks that makes 8.2 million
    parameters more. Blocks with a projection stay as they are.

    Base: He et al., "Deep residual learning for image recognition", CVPR 2016.
    """

    def __init__(self, block: Bottleneck) -> None:
        """Takes the layers of `block`, under their names, and draws the new one."""
        super().__init__()
        width = block.conv2.out_channels
        self.conv1, self.bn1 = block.conv1, block.bn1
        self.conv2, self.bn2 = block.conv2, block.bn2
        self.conv_extra = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn_extra = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = block.conv3, block.bn3
        self.relu = block.relu
        nn.init.kaiming_normal_(self.conv_extra.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4 W, s, s) -> the same."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.relu(self.bn_extra(self.conv_extra(y)))
        result: Tensor = self.relu(self.bn3(self.conv3(y)) + x)
        return result

    def pass_through(self) -> None:
        """Make the new layers the identity in eval mode: what comes in is not negative, so the ReLU changes nothing."""
        nn.init.dirac_(self.conv_extra.weight)
        self.bn_extra.reset_parameters()
        with torch.no_grad():
            self.bn_extra.weight.fill_((1 + self.bn_extra.eps) ** 0.5)  # against the eps beside the variance of 1


def enhance(resnet: ResNet) -> None:
    """ResNet50 -> resnet50_enhanced, in place: the twelve blocks without projection become IdentityBlocks."""
    for stage in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4):
        for number, block in enumerate(stage):
            if block.downsample is None:
                stage[number] = IdentityBlock(block)
                nn.init.zeros_(stage[number].bn3.weight)  # as zero_init_residual


class MLP6(nn.Module):
    """Six fully connected layers on the flattened image, ReLU between them: the network to compare convolutions with.

    Known of it: six fully connected layers, images of 512 x 512 x 3. The widths are our choice, 512, 512, 256, 256, 128
    and the classes: nearly all weights are in the first layer whatever follows, so they are as wide as one GPU's memory
    takes without worry. For 512 x 512 x 3 and 28 classes that makes 403,149,980 parameters, 1.6 GB, of which the first
    layer has 402,653,696; for 4 stains of 128 px it is 34 million.
    """

    WIDTHS = (512, 512, 256, 256, 128)

    def __init__(self, num_inputs: int, num_classes: int) -> None:
        """num_inputs: C * S * S."""
        super().__init__()
        sizes = (num_inputs, *self.WIDTHS, num_classes)
        self.flatten = nn.Flatten()
        for number in range(1, len(sizes)):
            layer = nn.Linear(sizes[number - 1], sizes[number])
            if number < len(sizes) - 1:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # signals keep their size through five ReLUs
                nn.init.zeros_(layer.bias)
                self.add_module(f"fc{number}", layer)
                self.add_module(f"relu{number}", nn.ReLU())
            else:
                self.add_module(f"fc{number}", layer)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, K) logits."""
        for layer in self.children():
            x = layer(x)
        return x
