"""Variational autoencoders in pure PyTorch: data shards, models, likelihoods, objective, trainer, samplers, metrics."""
