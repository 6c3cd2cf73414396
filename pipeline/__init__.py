"""Thin orchestration: the stages, and the only places that know DVC's paths, YAML, Ray and MLflow."""
