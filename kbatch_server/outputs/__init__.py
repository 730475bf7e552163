"""The results of jobs: selects them, keeps them in the storage, and provides them."""
