"""Results of many runs, kept in git: filed, checked, ranked and shown."""
