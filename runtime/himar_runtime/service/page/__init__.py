"""Serves the web page at `/`, which calls this server's API: the folder `files`, which the C++ server embeds too."""
