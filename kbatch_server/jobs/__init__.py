"""Jobs as a user sees them: what may be asked for, and what can be done with them."""
