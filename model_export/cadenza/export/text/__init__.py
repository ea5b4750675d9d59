"""The tokenizer as standard TensorFlow operations: compiled from tokenizer.json, then built as a graph."""
