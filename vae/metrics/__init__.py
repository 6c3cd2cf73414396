"""Metrics as pure functions of features, images or terms: no model is loaded, no file read, but by ``inception`` a user's own."""
