"""What a sweep leaves out to spend less."""
