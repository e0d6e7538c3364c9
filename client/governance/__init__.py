"""What a hospital keeps hold of: what may be asked of it, what may leave it, and the record of both."""
