"""Images as few bits, by a trained model: latents on a grid under learned tables, or every pixel by bits-back coding. docs/codec.md."""
