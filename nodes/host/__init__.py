"""The adapters to ComfyUI: the only code that touches its models, folders, server and executor."""
