"""ComfyUI in tests: prompts, a server, workflows, tiny checkpoints."""
