"""The results of jobs: which files they are, kept in the storage and handed out."""
