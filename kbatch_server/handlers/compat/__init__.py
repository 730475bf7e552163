"""Translates the requests and answers of other clients to ours and back."""
