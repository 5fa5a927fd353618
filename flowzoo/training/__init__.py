"""Training: strategies, optimizers, callbacks, and the recipe that joins them."""
