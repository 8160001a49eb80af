"""How well a model predicts what people say about images."""
