"""The code that users send, and what a ZIP of it may be."""
