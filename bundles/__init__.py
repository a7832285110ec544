"""Bundle files: low-rank weights, named embeddings and the recipe in forms that others read."""
