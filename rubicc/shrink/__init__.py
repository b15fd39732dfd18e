"""The verbs that change networks: ``train`` and what is built on it."""
