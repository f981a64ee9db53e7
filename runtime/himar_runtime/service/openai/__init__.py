"""Answers requests in the form of OpenAI's images API, so that its clients can be pointed at this server."""
