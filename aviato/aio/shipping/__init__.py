"""What a function needs to run somewhere else: its source, the values it uses, and a program that puts it together."""
