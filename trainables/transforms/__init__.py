"""Image geometry and augmentation: pure functions of sizes, pixels and random draws."""
