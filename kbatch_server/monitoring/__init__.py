"""The state of the service itself: the health of its parts, Prometheus metrics, the lag of its event loop."""
