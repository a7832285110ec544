"""A folder of pictures and captions, as it is found."""
