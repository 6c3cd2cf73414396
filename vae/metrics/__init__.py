"""Metrics as pure functions of features, images or terms: no model is loaded and no file is read here."""
