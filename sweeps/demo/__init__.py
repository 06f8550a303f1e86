"""Serve a page that classifies images with the finished model, in the browser itself."""
