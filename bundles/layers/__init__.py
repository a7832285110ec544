"""What a layer is called in each program."""
