"""Commands of ``consilium-site``, one file a topic; each adds its own with ``register``."""
