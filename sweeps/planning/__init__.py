"""Turn options into a checked spec, a grid of resolutions and a plan with its costs."""
