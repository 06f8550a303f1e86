"""The EfficientNet family, its pretrained weights, and the layers that FixRes touches."""
