"""Commands of ``consilium-center``, one file a topic; each adds its own with ``register``."""
