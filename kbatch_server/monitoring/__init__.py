"""How the service itself is: its parts' health, numbers for Prometheus, its event loop."""
