"""Pivotal: train named concepts on the models that are loaded in a ComfyUI graph."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Import the nodes only when the host asks: test tools import this file without a host."""
    from .nodes.host.versions import check_version

    check_version()
    from .nodes.extension import Extension

    return Extension()
