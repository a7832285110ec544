"""Reading a folder of pictures, captions and masks."""
