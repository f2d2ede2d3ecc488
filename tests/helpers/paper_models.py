"""The networks that the paper trains, by recipe; each as an ABN, and without one as the baseline."""

# Table 2 and section 4.2; depths below 110, and 28-10, are of the authors' code
CIFAR = (
    *(f'resnet{depth}_cifar' for depth in (20, 32, 44, 56, 110)),
    *('wrn28_4_cifar', 'wrn28_10_cifar', 'densenet100_12_cifar', 'resnext29_8x64d_cifar'),
)
BACKBONES = dict(
    cifar10=CIFAR,
    cifar100=CIFAR,
    svhn=('resnet110_cifar', 'wrn28_4_cifar', 'densenet100_12_cifar', 'resnext29_8x64d_cifar'),  # Table 2
    # Table 2: depth 152, and of SENet, too; the others are of the authors' code
    imagenet=('resnet50', 'resnet101', 'resnet152', 'resnext50_32x4d', 'seresnet152', 'vgg16', 'vgg16_bn'),
    compcars_model=('resnet101', 'vgg16'),  # section 4.3
    compcars_maker=('resnet101', 'vgg16'),
    celeba=('resnet101',),  # section 4.4
)
# Table 2
CAM = dict(cifar10=('resnet110_cifar',), cifar100=('resnet110_cifar',), imagenet=('resnet50', 'resnet152', 'vgg16_bn'))
