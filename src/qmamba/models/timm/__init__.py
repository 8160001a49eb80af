"""ResNet, ViT and Swin Transformer of the optional package timm, to compare QMamba with."""
