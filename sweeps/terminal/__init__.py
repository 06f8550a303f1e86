"""What a person sees on the terminal while a sweep runs and when it ends."""
