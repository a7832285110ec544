"""What a caption says: concepts, their vectors and the conditioning made of them."""
