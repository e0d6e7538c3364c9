"""From a hospital's files to tensors."""
