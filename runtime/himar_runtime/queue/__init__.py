"""A queue of launches on a device, and recorded graphs of its segments."""
