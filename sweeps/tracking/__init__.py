"""Write a sweep to MLflow, and read it back."""
