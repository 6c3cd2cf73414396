"""`vae serve`: a registered model over HTTP, on Ray Serve. docs/serving.md describes it."""
