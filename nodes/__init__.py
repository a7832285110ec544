"""The nodes: schemas and translation; the folder that knows ComfyUI, engine and bundles."""
