"""The local engine: this machine, bubblewrap, and a supervisor process."""
