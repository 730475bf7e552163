"""One module for each step, named by its date."""
