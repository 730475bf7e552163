"""Values that are requested, stored or shown: one class and one JSON form of each thing."""
