"""Name what marks a written net whose logits are averages over an image and its mirror image.

Imports nothing, as a machine that serves has neither PyTorch nor timm.
"""

MIRRORS = "averaged_with_mirror_image"  # in config.json and an ONNX file's metadata; else left out
