"""What a hospital can be asked, one module each."""
