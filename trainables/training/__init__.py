"""Fine-tune one trunk, epoch by epoch, on one or several workers."""
