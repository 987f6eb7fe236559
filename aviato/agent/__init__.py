"""The agent inside a sandbox, and the channel to it."""
