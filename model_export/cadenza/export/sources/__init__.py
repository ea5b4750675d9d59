"""Where models come from: a GGUF file or a Hugging Face folder."""
