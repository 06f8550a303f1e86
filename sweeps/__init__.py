"""Search variants, train and test resolutions for the FixEfficientNet that serves best."""
