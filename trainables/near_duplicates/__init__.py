"""Find images that look alike though their bytes differ: perceptual hashes and their neighbours."""
