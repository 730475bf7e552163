"""What is kept and what is shown: one class and one JSON form of each thing."""
