"""The Docker engine: containers of a Docker or Podman daemon."""
