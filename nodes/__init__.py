"""The nodes: schemas and translation; the only folder that knows ComfyUI, the engine and the bundles."""
