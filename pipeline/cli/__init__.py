"""The command ``vae``: what one does with a trained model. ``vae --help`` lists it; exit codes are those of the stages."""
