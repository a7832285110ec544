"""Training runs that are killed, cancelled, denied the disk and watched: what that costs them."""
