"""The local engine: this machine, and a supervisor process with a zygote."""
